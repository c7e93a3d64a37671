"""Measuring what calls cost, once for a bundle, engine and machine; the result is stored in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gesso_backend.arrays import Arrays
from gesso_backend.engines.engine import Engine, EngineSet
from gesso_backend.model.bundle import Bundle, NetworkSpec, TensorSpec
from gesso_backend.serving.costs import Costs
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)

VERSION = 1  # of the file
SPEED_SETTINGS = ("engine", "providers", "device", "batch_sizes", "max_rows", "threads", "weight_streaming_mib")
COMPUTE = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-lean-cu13")
MOST_ROWS = {"latents": 16, "pixels": 4, "tokens": 8}  # tried, by what a network sees
TRIES = 3  # of each call; the fastest counts
SLOW_SECONDS = 1.0  # a call this long is measured once


def measure(bundle: Bundle, engines: EngineSet, budget: float, clock: Callable[[], float] = time.monotonic) -> Costs:
    """Time every network at the native size and at half its side, at 1, 2, 4, ... rows while that pays.

    budget: seconds; when they are spent no larger batch and no further size is begun. The first call always is.
    """
    started = clock()
    seconds: dict[str, dict[int, dict[int, float]]] = {}
    for divisor in (2, 1):  # the small size first: it is cheap, and says what the large one may cost
        side = bundle.size.native // divisor // bundle.size.multiple * bundle.size.multiple
        for name in sorted(bundle.networks, key=lambda name: bundle.networks[name].sees != "latents"):
            if side and (not seconds.get(name) or clock() - started < budget):
                pixels, times = _batches(
                    name, bundle, engines.engine(name), side, lambda: clock() - started < budget, clock
                )
                seconds.setdefault(name, {})[pixels] = times
    return Costs.of(bundle, seconds)


def _batches(
    name: str, bundle: Bundle, engine: Engine, side: int, more: Callable[[], bool], clock: Callable[[], float]
) -> tuple[int, dict[int, float]]:
    times: dict[int, float] = {}
    rows = 1
    while True:
        inputs = _inputs(bundle.networks[name], bundle, rows, side)
        try:
            times[rows] = _fastest(engine, inputs, clock)
        except Exception as error:  # out of memory, as each engine says it; the call before it fitted
            if not times:
                raise
            log.info("%s: %d rows of %d px do not run (%s)", name, rows, side, error)
            break
        pays = rows == 1 or times[rows] / rows < times[rows // 2] / (rows // 2) / 1.03
        if not pays or rows >= MOST_ROWS[bundle.networks[name].sees] or not more():
            break
        rows *= 2
    pixels = max((array.shape[2] * array.shape[3] for array in inputs.values() if array.ndim == 4), default=1)
    return pixels, times


def _fastest(engine: Engine, inputs: Arrays, clock: Callable[[], float]) -> float:
    best = math.inf
    for _ in range(TRIES + 1):  # the first warms up
        started = clock()
        engine(**inputs)
        best = min(best, clock() - started)
        if best > SLOW_SECONDS:
            break
    return best


def _inputs(spec: NetworkSpec, bundle: Bundle, rows: int, side: int) -> Arrays:
    """Zeros of the right shapes: a call's time does not depend on what is in it."""
    sizes = bundle.axes(rows, side)

    def shape(tensor: TensorSpec) -> list[int]:
        return [axis if isinstance(axis, int) else sizes[axis] for axis in tensor.shape]

    return {name: np.zeros(shape(tensor), tensor.dtype) for name, tensor in spec.inputs.items()}


def load_or_measure(bundle: Bundle, engines: EngineSet, settings: Settings, folder: Path | None = None) -> Costs:
    """What was measured for this bundle, engine and machine at an earlier start, or now and stored for the next.

    folder: where the files are. A file that cannot be read is measured again; one that cannot be written is no error.
    """
    folder = cache_folder() if folder is None else folder
    about = {
        "version": VERSION,
        "bundle": {name: bundle.files[spec.file].sha256 for name, spec in bundle.networks.items()},
        "engine": {name: getattr(settings, name) for name in SPEED_SETTINGS} | versions(),
        "runs": dict(engines.names),
        "device": device(),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{key}.json"
    try:
        return Costs.of(bundle, read(path))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, AttributeError) as error:
        log.warning("the profile %s cannot be read (%s); measuring again", path, error)
    started = time.monotonic()
    costs = measure(bundle, engines, settings.profile_seconds)
    log.info("profiled the networks in %.1f s", time.monotonic() - started)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"about": about, "seconds": costs.seconds}, indent=1))
        part.replace(path)
    except OSError as error:
        log.warning("the profile is not stored: %s", error)
    return costs


def read(path: Path) -> dict[str, dict[int, dict[int, float]]]:
    """The seconds of a stored profile. Raises OSError, ValueError, KeyError."""
    stored: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text())["seconds"]
    return {
        network: {int(size): {int(rows): float(s) for rows, s in times.items()} for size, times in sizes.items()}
        for network, sizes in stored.items()
    }


def cache_folder() -> Path:
    """Where profiles are stored: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gesso" / "profiles"


def versions() -> dict[str, str]:
    """The installed releases of what may compute."""
    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {name: found[name] for name in COMPUTE if name in found}


def device() -> str:
    """The machine, as far as its speed goes."""
    return f"{_cpu()}, {len(os.sched_getaffinity(0))} cores"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
