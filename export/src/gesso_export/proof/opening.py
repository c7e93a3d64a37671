"""How diffusers opens what a person has, a directory or a single file: no reading of ours takes part."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from gesso_export.checkpoint.checkpoint import Component

FLOW = "Flux"  # how the names of that family's pipelines begin
TEXT = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
PAINTERS = ("unet", "transformer", "vae")
SCHEDULER = "scheduler"
_T5, _T5_PREFIX = "text_encoder_2", "text_encoders.t5xxl.transformer."
_VARIANTS = (None, "fp16")

Elsewhere = Mapping[str, Callable[[], Any]]  # parts that do not lie with the others


class CannotOpen(Exception):
    """Diffusers has no pipeline for these files; the message says why."""


def of_directory(folder: Path, class_name: str, elsewhere: Elsewhere, **left_out: Any) -> Any:
    """How diffusers opens a directory: from local safetensors files alone, without code of theirs."""
    import diffusers

    given = {name: opened() for name, opened in elsewhere.items() if name not in left_out}
    return _stored(getattr(diffusers, class_name), folder, **given, **left_out)


def of_single_file(file: Path, class_name: str, elsewhere: Elsewhere, configs: Path, **left_out: Any) -> Any:
    """How diffusers opens a single file; configs: a directory with all but the weights."""
    import diffusers

    given = {name: opened() for name, opened in elsewhere.items() if name not in left_out}
    if class_name.startswith(FLOW) and _T5 not in {*given, *left_out}:
        given[_T5] = _t5_of(file, configs / _T5)
    with _nothing_made_up():
        return getattr(diffusers, class_name).from_single_file(
            str(file), config=str(configs), local_files_only=True, torch_dtype=torch.float32, **given, **left_out
        )


def part(component: Component) -> Any:
    """One that does not lie with the others, as its own library reads it; a scheduler, by its config alone."""
    kind = getattr(importlib.import_module(component.library), component.class_name)
    if component.name == SCHEDULER:
        return kind.from_config(component.config())
    if issubclass(kind, torch.nn.Module):
        return _stored(kind, component.folder)
    return kind.from_pretrained(component.folder, local_files_only=True)  # a tokenizer


def vae_of_file(file: Path, configs: Path) -> Any:
    """A VAE in the original layout; configs: the folder of its config."""
    import diffusers

    with _nothing_made_up():
        return diffusers.AutoencoderKL.from_single_file(
            str(file), config=str(configs), local_files_only=True, torch_dtype=torch.float32
        )


def _t5_of(file: Path, config: Path) -> Any:
    """By transformers: diffusers' loader wants the embedding twice, which files have once."""
    import transformers

    with safe_open(file, framework="pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith(_T5_PREFIX)]  # noqa: SIM118 - not a mapping
        weights = {name.removeprefix(_T5_PREFIX): tensors.get_tensor(name).float() for name in names}
    kind = transformers.T5EncoderModel
    return kind.from_pretrained(
        None, config=transformers.T5Config.from_pretrained(config, local_files_only=True), state_dict=weights
    )


def _stored(kind: Any, folder: Path, **given: Any) -> Any:
    """A model, or a pipeline of several."""
    errors = []
    for variant in _VARIANTS:
        try:
            return kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, variant=variant, torch_dtype=torch.float32, **given
            )
        except (OSError, ValueError) as error:
            errors.append(error)
    raise errors[0]


@contextlib.contextmanager
def _nothing_made_up() -> Iterator[None]:
    """Raises CannotOpen for a weight that the loader does not find: it would leave it random without a word."""
    load = torch.nn.Module.load_state_dict

    def whole(module: Any, *arguments: Any, **options: Any) -> Any:
        answer = load(module, *arguments, **options)
        parameters = dict(module.named_parameters())
        if missing := [name for name in answer.missing_keys if name in parameters]:
            raise CannotOpen(f"it finds no {missing[0]} of {type(module).__name__} in the file")
        return answer

    torch.nn.Module.load_state_dict = whole
    try:
        yield
    finally:
        torch.nn.Module.load_state_dict = load
