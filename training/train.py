"""The whole training, from nothing to a checkpoint: `python -m training.train` (see training/README.md).

Stop it at any point and start it again: each stage goes on where it was, and a finished one is passed over.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training.charts import draw_curves
from training.dataset import make_dataset
from training.denoiser import train_denoiser
from training.latents import make_latents
from training.model import SIZE, save
from training.tokens import learn
from training.vae import train_vae

SCENES = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("checkpoints/little-world-training"), help="state of the run")
    parser.add_argument("--out", type=Path, default=Path("examples/little-world"), help="the checkpoint")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    dataset = make_dataset(options.work / "scenes", options.scenes, SIZE)
    vocabulary = learn(text for row in dataset.captions for texts in row.values() for text in texts)
    vae = train_vae(dataset.images, options.work, device)
    latents = make_latents(dataset, vae, options.work, device)
    denoiser = train_denoiser(latents, dataset.captions, vocabulary, options.work, device)
    save(options.out, vae, denoiser.unet, denoiser.text_encoder, vocabulary)
    for name in ("vae-crops", "vae", "denoiser"):
        draw_curves(name, options.work, options.out / "training")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
