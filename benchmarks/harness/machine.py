"""What machine this is, and which versions ran on it. Standard library only, for the sides of comparisons."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "diffusers", "onnxruntime", "numpy", "tritonclient")


def machine(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """As every result has it: the processor, the threads, Python's version and those of the packages."""
    return {"cpu": cpu(), "threads": threads(), "python": platform.python_version(), **versions(packages)}


def line(about: Mapping[str, Any]) -> str:
    """The line below a table."""
    return f"Machine and versions: {words(about)}."


def words(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in about.items())


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
