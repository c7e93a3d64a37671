"""What a person names (a directory, a single file, a hub id) as a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gesso_export.checkpoint import hub
from gesso_export.checkpoint.checkpoint import Checkpoint, open_checkpoint
from gesso_export.errors import CheckpointError
from gesso_export.single_file.convert import convert
from gesso_export.single_file.header import SUFFIXES


@contextmanager
def opened(
    source: str,
    out: Path,
    *,
    revision: str | None = None,
    prediction_type: str | None = None,
    turbo: bool = False,
    base: Path | None = None,
) -> Iterator[Checkpoint]:
    """The checkpoint, whatever form it comes in. A single file is unpacked beside `out` until the block ends.

    revision: the commit of a hub id. prediction_type, turbo, base: what a single file does not say or hold. Raises
    CheckpointError naming the option that does not go with the source, HubError, and what the files deserve.
    """
    path = Path(source)
    is_file = path.is_file() or path.suffix in SUFFIXES
    if not is_file:
        for option, value in (("--prediction-type", prediction_type), ("--turbo", turbo), ("--base", base)):
            if value:
                raise CheckpointError(f"{option} is for .safetensors files; a directory's own configs say it all")
    if revision is not None and (is_file or path.is_dir() or not hub.is_hub_id(source)):
        raise CheckpointError(f"--revision is for hub ids; {path} is a file or a directory, or does not exist")
    if is_file:
        parent = next(parent for parent in out.parents if parent.exists())
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=parent) as folder:
            convert(path, Path(folder), prediction_type, turbo=turbo, base=base)
            yield open_checkpoint(Path(folder), path.name)
    elif path.is_dir() or not hub.is_hub_id(source):
        yield open_checkpoint(path, path.resolve().name)
    else:
        yield open_checkpoint(hub.fetch(source, revision), source, revision)
