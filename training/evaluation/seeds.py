"""Which seeds are whose, so that nothing is asked about a scene that anything was trained on.

The model's own begin at training.dataset.FIRST_SEED, a million.
"""

EVALUATION = range(10_000)
CLASSIFIER = range(500_000, 600_000)  # the judge of kinds is trained on these

ADD, REMOVE, REPLACE, SWAP, VAE, CEILING = (EVALUATION[start : start + 1000] for start in range(0, 6000, 1000))
