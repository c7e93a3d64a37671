"""The engines of a bundle: each network's spec, what is there already, and a child process for each that is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from gesso_export.bundle.manifest import Bundle
from gesso_export.errors import EngineError
from gesso_export.progress import Progress
from gesso_export.tensorrt import child, profiles, publish, timing_cache
from gesso_export.tensorrt.profiles import NamedSizes
from gesso_export.tensorrt.spec import Options, Result, Spec, source_of
from gesso_export.tensorrt.task import BuildTask

COMMAND = (sys.executable, "-m", "gesso_export.tensorrt.builder")


@dataclass(frozen=True)
class BuildSettings:
    """The command line, once its words are known to mean something."""

    sizes: tuple[NamedSizes, ...] = ()  # none: the defaults of the bundle
    tokens: tuple[int, int, int] | None = None
    vae_batch: int = 1
    networks: tuple[str, ...] = ()  # none: all
    quantize: str | None = None  # of the denoiser; the others are small, and sensitive
    options: Options = field(default_factory=Options)


def specs(bundle: Bundle, settings: BuildSettings, gpu: str, tensorrt: str) -> list[Spec]:
    """A spec for each network. Raises EngineError naming the flag that asks for what cannot be."""
    for network in settings.networks:
        if network not in bundle.networks:
            raise EngineError(f"--network: {network!r} is not one of {', '.join(bundle.networks)}")
    sizes = settings.sizes or profiles.defaults(bundle)
    profiles.check(sizes, bundle)
    tokens = settings.tokens or profiles.default_tokens(bundle)
    return [
        Spec(
            network=name,
            source=source_of(bundle, name),
            precision=network.precision,
            quantize=settings.quantize if name == bundle.denoiser else None,
            profiles=profiles.for_network(name, bundle, sizes, tokens, settings.vae_batch),
            options=settings.options,
            gpu=gpu,
            tensorrt=tensorrt,
        )
        for name, network in bundle.networks.items()
        if not settings.networks or name in settings.networks
    ]


def build_all(
    folder: Path,
    wanted: Sequence[Spec],
    device: int,
    progress: Progress,
    command: Sequence[str] = COMMAND,
    force: bool = False,
) -> list[Path]:
    """Build and publish what is not there yet; returns the engines' folders.

    command: the program of the child. Raises BuildError; what was published before stays, and is skipped next time.
    """
    return [_build_one(folder, spec, device, progress, command, force) for spec in wanted]


def _build_one(folder: Path, spec: Spec, device: int, progress: Progress, command: Sequence[str], force: bool) -> Path:
    target = folder / publish.FOLDER / spec.key
    if not force and publish.published(folder, spec):
        with progress.stage(spec.network, "skip") as stage:
            stage.note(f"{spec.key} is there")
        return target
    cache = timing_cache.path(spec.gpu, spec.tensorrt)
    with publish.staged(folder, spec) as staging, progress.stage(spec.network, "build") as stage:
        copy = staging / "timing.cache"
        timing_cache.get(cache, copy)
        task = BuildTask(folder, spec, staging, copy, device).write()
        event = child.run([*command, str(task)], staging / "build.log", follow(progress.stream))
        result = Result(**{name: event[name] for name in Result.__dataclass_fields__})
        published = publish.publish(folder, spec, staging / result.plan, result)
        timing_cache.put(copy, cache)
        stage.note(f"{spec.key}, largest error {result.verified['largest_error']:.1e}")
    return published


def follow(stream: TextIO | None) -> Callable[[Mapping[str, Any]], None]:
    """Shows the outermost phases of a build on a terminal; on anything else nothing."""
    shown = stream is not None and stream.isatty()
    steps: dict[str, int] = {}

    def on_event(event: Mapping[str, Any]) -> None:
        if not shown or stream is None:
            return
        if event.get("event") == "phase" and event["parent"] is None:
            steps[event["phase"]] = event["steps"]
        elif event.get("event") == "step" and event["phase"] in steps:
            stream.write(f"\r{event['phase'][:50]:50} {event['step'] + 1}/{steps[event['phase']]} ")
            stream.flush()

    return on_event
