"""A single file, written as a diffusers directory."""

from __future__ import annotations

from pathlib import Path

from gesso_export.checkpoint.checkpoint import Component, open_checkpoint
from gesso_export.checkpoint.claims import of_file
from gesso_export.checkpoint.clip_vocabulary import write_tokenizer
from gesso_export.checkpoint.header import open_tensors
from gesso_export.errors import CheckpointError
from gesso_export.single_file.detect import detect
from gesso_export.single_file.header import read as read_header
from gesso_export.single_file.layout import Layout
from gesso_export.single_file.unpack import write_json, write_part
from gesso_export.single_file.vae import read_vae


def convert(
    file: Path,
    folder: Path,
    prediction_type: str | None = None,
    *,
    turbo: bool = False,
    base: Path | None = None,
    vae: Path | None = None,
) -> None:
    """Write the checkpoint in `file` to the empty directory `folder`, in the diffusers layout and its own precision.

    float8 becomes bfloat16, which has all its values. base: a diffusers directory for the components that the file
    does not hold; they become links. prediction_type, turbo: see `detect`. vae: a folder or file to take the VAE from.
    """
    header = read_header(file)
    claims = of_file(header.shapes, header.metadata, file)
    layout = detect(header.shapes, prediction_type, turbo=turbo, claims=claims, vae=vae is not None)
    others = borrowed(layout, base)
    if vae is not None:
        others["vae"] = read_vae(vae, folder / "other" / "vae", layout.vae_config)
    with open_tensors(file) as source:
        for part in layout.parts:
            # One network at a time: a checkpoint is larger than what any machine should need to read it.
            write_part(part, source, folder / part.name)
    for name, component in others.items():
        (folder / name).symlink_to(component.folder.resolve(), target_is_directory=True)
    for name, pad_token in layout.tokenizers.items():
        write_tokenizer(folder / name, pad_token)
    write_json(folder / "scheduler" / "scheduler_config.json", layout.scheduler)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": layout.pipeline,
            **layout.options,
            **{part.name: [part.library, part.class_name] for part in layout.parts},
            **{name: [component.library, component.class_name] for name, component in others.items()},
            **{name: ["transformers", "CLIPTokenizer"] for name in layout.tokenizers},
            "scheduler": ["diffusers", layout.scheduler["_class_name"]],
        },
    )


def borrowed(layout: Layout, base: Path | None) -> dict[str, Component]:
    """The components that the file does not hold, from a diffusers directory. Raises CheckpointError."""
    if not layout.missing:
        if base is not None:
            raise CheckpointError(f"--base is for FLUX.1 files; this file is {layout.what}")
        return {}
    if base is None:
        raise CheckpointError(
            f"this file is {layout.what} without {', '.join(layout.missing)}; give --base DIR, a diffusers directory "
            "of any FLUX.1 model, to take them from (T5's tokenizer, tokenizer_2, is in no single file)"
        )
    checkpoint = open_checkpoint(base, base.name)
    if checkpoint.pipeline not in layout.bases:
        raise CheckpointError(f"--base {base} is a {checkpoint.pipeline}, not FLUX.1")
    for name in layout.missing:
        if name not in checkpoint.components or not checkpoint.components[name].folder.is_dir():
            raise CheckpointError(f"--base {base} has no {name}, and neither has the file")
    return {name: checkpoint.components[name] for name in layout.missing}
