"""Checkpoints, their bundles and what diffusers paints with them, for tests that plant a wrong reading."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bundles
from gesso_export import families
from gesso_export.bundle import manifest
from gesso_export.checkpoint.checkpoint import open_checkpoint
from gesso_export.networks.clip import TextEncoder
from gesso_export.networks.module import run
from gesso_export.precision import picture_tolerances
from gesso_export.proof import independent, one_step, opening, pipeline
from gesso_export.proof.one_step import Answer
from gesso_export.proof.sketch import Painted

SUBJECTS: dict[str, dict[str, Any]] = {
    "plain": bundles.OTHER,  # v-prediction, OpenCLIP
    "inpaint": {},
    "sdxl": {"preset": "sdxl-tiny", "in_channels": 4},
    "flux": {"preset": "flux-tiny", "variant": "dev"},
}
Subject = tuple[Path, Path, Painted]  # checkpoint, bundle, what diffusers paints


def made(root: Path, name: str) -> Subject:
    source, bundle = bundles.export(root, **SUBJECTS[name])
    return source, bundle, by_diffusers(bundle, partial(opening.of_directory, source))


def by_diffusers(bundle: Path, opened: Callable[..., Any], *arguments: Any) -> Painted:
    """opened: of the pipeline's class, which the arguments follow."""
    spec = manifest.read(bundle)
    name = pipeline.CLASSES[spec.family, spec.native_inpainting]
    longest = max(tokenizer.max_length for tokenizer in spec.tokenizers.values())

    def open_pipeline(**left_out: Any) -> Any:
        return opened(name, {}, *arguments, **left_out)

    return pipeline.paint(open_pipeline, name, one_step.guidance_scale(spec), longest)


def compare(bundle: Path, expected: Painted, replaced: Mapping[str, Answer] | None = None) -> float:
    found = one_step.paint(bundle, replaced)
    return independent.compare(manifest.read(bundle), found, expected, picture_tolerances())


class OneLayerLess(TextEncoder):
    """All but the last of the text's layers."""

    def forward(self, input_ids: torch.Tensor, clip_skip: torch.Tensor) -> Any:
        answer = self.model(input_ids=input_ids, output_hidden_states=True)
        return self.model.final_layer_norm(answer.hidden_states[-2])


def as_wrapped(source: Path, name: str, wrap: Callable[[Any], Any]) -> dict[str, Answer]:
    """What torch computes of a network that was put together in another way."""
    model = families.describe(open_checkpoint(source, "x"))
    (network,) = (network for network in model.networks if network.name == name)
    module = dataclasses.replace(network, wrap=wrap).load()
    return {name: lambda inputs: run(module, inputs)}
