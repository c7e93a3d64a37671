"""Engines on the disk: whole and checked, or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from gesso_export.bundle.staging import sync
from gesso_export.errors import OutputError
from gesso_export.tensorrt.spec import Result, Spec

FOLDER = "engines"
_PARTIAL = re.compile(r"\..*\.(\d+)\.partial")


def published(bundle: Path, spec: Spec) -> bool:
    """Whether an engine of this very spec is there, whole."""
    folder = bundle / FOLDER / spec.key
    plan = folder / f"{spec.network}.plan"
    try:
        document = json.loads((folder / f"{spec.network}.json").read_text(encoding="utf-8"))
        result = document["result"]
        if document["spec"] != spec.document() or plan.stat().st_size != result["bytes"]:
            return False
        with plan.open("rb") as file:
            return bool(hashlib.file_digest(file, "sha256").hexdigest() == result["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def staged(bundle: Path, spec: Spec) -> Iterator[Path]:
    """An empty folder to build in. It is gone when the block ends, however it ends; `publish` takes out of it."""
    root = bundle / FOLDER
    folder = root / f".{spec.key}.{os.getpid()}.partial"
    try:
        root.mkdir(exist_ok=True)
        _sweep(root)
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"{root} cannot be written: {error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            root.rmdir()  # only when nothing was ever published


def publish(bundle: Path, spec: Spec, plan: Path, result: Result) -> Path:
    """Make the verified `plan` of a staging folder visible, with its spec, in one rename; returns its folder."""
    target = bundle / FOLDER / spec.key
    ready = plan.parent / "ready"
    try:
        ready.mkdir()
        plan.rename(ready / result.plan)
        text = json.dumps({"spec": spec.document(), "result": asdict(result)}, indent=2) + "\n"
        (ready / f"{spec.network}.json").write_text(text, encoding="utf-8")
        for path in (*ready.iterdir(), ready):
            sync(path)
        if target.exists():  # of this key, and not whole: `published` said so
            shutil.rmtree(target)
        ready.rename(target)
        sync(target.parent)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}") from error
    return target


def _sweep(root: Path) -> None:
    """Remove what builds left that were killed."""
    for path in root.iterdir():
        if (match := _PARTIAL.fullmatch(path.name)) and not Path("/proc", match[1]).exists():
            shutil.rmtree(path, ignore_errors=True)
