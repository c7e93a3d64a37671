"""Which engines have to be built: every network of every bundle for every GPU of a list, less those that are there.

    python docker/engine_plan.py .github/engines.json --bundles FOLDER --artefacts REGISTRY/REPOSITORY

Exports the bundles that FOLDER lacks, asks `gesso-export engines --print-key` for the keys (no GPU is needed), and
looks each up in the OCI repository with `oras`. Prints `missing=[...]` and `all=[...]` for a workflow's outputs.
Standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")  # what may be an OCI tag
ABSENT = re.compile(r"not found|404|name unknown|manifest unknown", re.IGNORECASE)


class PlanError(Exception):
    """The list is wrong, or a tool failed."""


@dataclass(frozen=True)
class Bundle:
    name: str
    checkpoint: str
    precision: str
    arguments: tuple[str, ...]  # of gesso-export engines: profiles and options


@dataclass(frozen=True)
class Gpu:
    name: str  # as TensorRT and nvidia-smi name it
    runner: str  # the label of a runner that has one


@dataclass(frozen=True)
class Listed:
    """The file: .github/engines.json."""

    tensorrt: str  # the version that the images have
    bundles: tuple[Bundle, ...]
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Engine:
    bundle: str
    gpu: str
    runner: str
    arguments: str  # with spaces between
    network: str
    key: str


def read(text: str) -> Listed:
    """Raises PlanError."""
    try:
        listed = json.loads(text)
        bundles = tuple(Bundle(**{**each, "arguments": tuple(each["arguments"])}) for each in listed["bundles"])
        return Listed(listed["tensorrt"], bundles, tuple(Gpu(**each) for each in listed["gpus"]))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise PlanError(f"engines.json: {error}") from None


def engines(listed: Listed, keys: Callable[[Bundle, Gpu], str]) -> list[Engine]:
    """Every network of every bundle for every GPU.

    keys: what `gesso-export engines --print-key` prints, lines of KEY NETWORK. Raises PlanError for a line that is
    none, for a key that cannot name an artefact, and for one that two engines share.
    """
    found: dict[str, Engine] = {}
    for bundle in listed.bundles:
        for gpu in listed.gpus:
            for line in keys(bundle, gpu).splitlines() or [""]:
                key, _, network = line.partition(" ")
                if not KEY.fullmatch(key) or not network.isidentifier():
                    raise PlanError(f"{bundle.name} for {gpu.name}: {line!r} is no engine key and network")
                made = Engine(bundle.name, gpu.name, gpu.runner, " ".join(bundle.arguments), network, key)
                if other := found.get(key):
                    raise PlanError(f"{made} has the key of {other}")
                found[key] = made
    return list(found.values())


def outputs(planned: Sequence[Engine], exists: Callable[[str], bool]) -> dict[str, list[Mapping[str, Any]]]:
    return {
        "missing": [dataclasses.asdict(each) for each in planned if not exists(each.key)],
        "all": [dataclasses.asdict(each) for each in planned],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, metavar="JSON")
    parser.add_argument("--bundles", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--artefacts", required=True, metavar="REPOSITORY")
    parser.add_argument("--gesso-export", default="gesso-export", metavar="COMMAND")
    options = parser.parse_args()

    def keys(bundle: Bundle, gpu: Gpu) -> str:
        command = [options.gesso_export, "engines", str(options.bundles / bundle.name), "--gpu", gpu.name]
        return _run(*command, "--tensorrt-version", listed.tensorrt, *bundle.arguments, "--print-key")

    def exists(tag: str) -> bool:
        command = ["oras", "resolve", f"{options.artefacts}:{tag}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 and not ABSENT.search(done.stderr):
            raise PlanError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.returncode == 0

    try:
        listed = read(options.list.read_text(encoding="utf-8"))
        for bundle in listed.bundles:
            if not (options.bundles / bundle.name / "bundle.json").is_file():
                out = str(options.bundles / bundle.name)
                _run(options.gesso_export, bundle.checkpoint, "--out", out, "--precision", bundle.precision)
        for name, value in outputs(engines(listed, keys), exists).items():
            print(f"{name}={json.dumps(value)}")
    except PlanError as error:
        print(f"engine_plan: error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise PlanError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
