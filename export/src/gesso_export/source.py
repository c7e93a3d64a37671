"""What a person names (a directory, a single file, a hub id) as a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gesso_export.bundle import staging
from gesso_export.bundle.parameters import SCHEDULER_CLASSES
from gesso_export.checkpoint import bounds, hub
from gesso_export.checkpoint.checkpoint import Checkpoint, Component, SingleFile, StatedComponent, open_checkpoint
from gesso_export.checkpoint.strict import check_regular, read_json
from gesso_export.errors import CheckpointError
from gesso_export.single_file.convert import convert
from gesso_export.single_file.header import SUFFIXES
from gesso_export.single_file.vae import read_vae

_VAE_KEYS = ("scaling_factor", "shift_factor", "sample_size", "force_upcast")  # which no shape says
_SCHEDULER = "scheduler_config.json"


@dataclass(frozen=True)
class Wanted:
    """A checkpoint by name, and what the user says of it."""

    source: str  # a directory, a file, a hub id
    revision: str | None = None  # the commit of a hub id
    prediction_type: str | None = None  # decides, whatever the files say
    turbo: bool = False  # of a single file, which does not say it
    base: Path | None = None  # for what a single file does not hold
    vae: Path | None = None  # a folder or file, in place of the checkpoint's own
    scheduler: str | None = None  # a class, or the file of a config, in place of the checkpoint's own

    @property
    def path(self) -> Path:
        return Path(self.source)

    @property
    def is_file(self) -> bool:
        return not self.path.is_dir() and (self.path.exists() or self.path.suffix in SUFFIXES)

    @property
    def vae_file(self) -> Path | None:
        return None if self.vae is None or self.vae.is_dir() else self.vae

    def check(self) -> None:
        """Raises CheckpointError naming the option that does not go with the source, or a file that is not there."""
        if not self.is_file:
            for option, value in (("--turbo", self.turbo), ("--base", self.base)):
                if value:
                    raise CheckpointError(f"{option} is for .safetensors files; a directory's own configs say it all")
        if self.revision is not None and (self.is_file or self.path.is_dir() or not hub.is_hub_id(self.source)):
            raise CheckpointError(f"--revision is for hub ids; {self.path} is a file or a directory, or does not exist")
        for option, given in (("--vae", self.vae), ("--base", self.base)):
            if given is not None and not given.exists():
                raise CheckpointError(f"{option} {given} does not exist")

    def directory(self) -> Checkpoint:
        """What is no single file."""
        if self.path.is_dir() or not hub.is_hub_id(self.source):
            return open_checkpoint(self.path, os.path.basename(os.path.realpath(self.path)))
        return open_checkpoint(hub.fetch(self.source, self.revision), self.source, self.revision)


@contextmanager
def opened(wanted: Wanted, out: Path) -> Iterator[Checkpoint]:
    """The checkpoint, whatever form it comes in. What has to be unpacked is unpacked beside `out` until the block ends.

    Raises CheckpointError naming the option that does not go with the source, HubError, OutputError, and what the files
    deserve.
    """
    wanted.check()
    if wanted.is_file:
        size = check_size(wanted.path)
        with staging.scratch(out, size) as folder:
            convert(
                wanted.path,
                folder,
                wanted.prediction_type,
                turbo=wanted.turbo,
                base=wanted.base,
                vae=wanted.vae,
            )
            checkpoint = as_asked(open_checkpoint(folder, wanted.path.name), wanted)
            file = SingleFile(wanted.path, wanted.prediction_type, wanted.turbo)
            yield replace(checkpoint, file=file, vae_file=wanted.vae_file)
        return
    checkpoint = as_asked(wanted.directory(), wanted)
    if wanted.vae is None:
        yield checkpoint
        return
    with staging.scratch(out) as folder:
        yield replace(with_vae(checkpoint, wanted.vae, folder), vae_file=wanted.vae_file)


def check_size(file: Path) -> int:
    """Bytes of a single file; of one that is not there, the error comes when it is read."""
    try:
        return check_regular(file)
    except FileNotFoundError:
        return 0


def as_asked(checkpoint: Checkpoint, wanted: Wanted) -> Checkpoint:
    """With the scheduler and the prediction type that the user names. Raises CheckpointError."""
    if wanted.scheduler is not None:
        checkpoint = checkpoint.adding({"scheduler": _scheduler(checkpoint, wanted.scheduler)})
    if wanted.prediction_type is None:
        return checkpoint
    if "unet" not in checkpoint.components:
        raise CheckpointError("--prediction-type is not for FLUX.1, which predicts a velocity")
    if (scheduler := checkpoint.components.get("scheduler")) is not None:
        settings = {**scheduler.config(), "prediction_type": wanted.prediction_type}
        checkpoint = checkpoint.adding({"scheduler": _stated(scheduler, scheduler.class_name, settings)})
    return replace(checkpoint, prediction_type=wanted.prediction_type)


def with_vae(checkpoint: Checkpoint, vae: Path, folder: Path) -> Checkpoint:
    """With the VAE in `vae`."""
    return checkpoint.adding({"vae": read_vae(vae, folder / "vae", own_vae(checkpoint))})


def own_vae(checkpoint: Checkpoint) -> dict[str, object]:
    """What the config of the checkpoint's own VAE says that a file of another one does not."""
    own = checkpoint.components.get("vae")
    config = own.config() if own is not None and (own.folder / own.config_name).exists() else {}
    return {key: config[key] for key in _VAE_KEYS if key in config}


def _scheduler(checkpoint: Checkpoint, wanted: str) -> Component:
    """--scheduler: the config of the file, or the checkpoint's own read by another class."""
    own = checkpoint.components.get("scheduler")
    if wanted in SCHEDULER_CLASSES:
        if own is None:
            raise CheckpointError(f"--scheduler {wanted}: the checkpoint has no scheduler's config; give a file")
        return _stated(own, wanted, own.config())
    path = Path(wanted)
    if path.is_dir():
        path = path / _SCHEDULER
    if not path.exists():
        known = ", ".join(SCHEDULER_CLASSES)
        raise CheckpointError(f"--scheduler {wanted} is neither a file nor a class that is supported: {known}")
    settings = read_json(path.parent, path.name)
    class_name = str(settings.get("_class_name") or (own.class_name if own else ""))
    bounds.check(settings, class_name, path.name)
    return StatedComponent("scheduler", "diffusers", class_name, path.parent, settings)


def _stated(component: Component, class_name: str, settings: dict[str, object]) -> Component:
    return StatedComponent(component.name, component.library, class_name, component.folder, settings)
