"""A small vocabulary in the layout of T5's, for checkpoints that may download none.

The ids and the algorithm are T5's: <pad>, </s>, <unk>, then Unigram pieces in which "▁" opens a word, then the 100
sentinels. The words are those that CLIP's vocabulary learned first; what is not among them is spelled.
"""

from __future__ import annotations

import math
import string
from pathlib import Path

from transformers import T5TokenizerFast

from gesso_export.checkpoint.clip_vocabulary import vocabulary

SENTINELS = 100
MAX_TOKENS = 512
SPELLED = -20.0  # the log-probability of a single character: no word is so rare that it would be spelled instead


def pieces(size: int) -> list[tuple[str, float]]:
    """`size` pieces, or fewer where the words run out, each with its log-probability."""
    specials = ["<pad>", "</s>", "<unk>"]
    characters = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    endings = [token.removesuffix("</w>") for token in vocabulary()[0] if token.endswith("</w>")]
    words = [word for word in endings if len(word) > 1 and word.isascii() and word.isalpha()]
    words = words[: size - len(specials) - len(characters) - SENTINELS]
    return [
        *((token, 0.0) for token in specials),
        *((character, SPELLED) for character in characters),
        *(("▁" + word, -math.log(rank)) for rank, word in enumerate(words, start=2)),
        *((f"<extra_id_{number}>", 0.0) for number in reversed(range(SENTINELS))),
    ]


def write_tokenizer(folder: Path, size: int) -> None:
    """tokenizer.json and tokenizer_config.json, of `size` pieces at the most."""
    T5TokenizerFast(vocab=pieces(size), extra_ids=SENTINELS, model_max_length=MAX_TOKENS).save_pretrained(folder)
