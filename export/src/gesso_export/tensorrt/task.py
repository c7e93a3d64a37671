"""What the parent wants of the child that builds, as a file between them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gesso_export.tensorrt import spec as specs
from gesso_export.tensorrt.spec import Spec

FILE = "task.json"


@dataclass(frozen=True)
class BuildTask:
    bundle: Path
    spec: Spec
    staging: Path  # where the plan and everything in between goes
    timing_cache: Path  # a copy of the child's own
    device: int

    def write(self) -> Path:
        path = self.staging / FILE
        document = {
            "bundle": str(self.bundle),
            "spec": self.spec.document(),
            "timing_cache": str(self.timing_cache),
            "device": self.device,
        }
        path.write_text(json.dumps(document), encoding="utf-8")
        return path


def read(path: Path) -> BuildTask:
    document = json.loads(path.read_text(encoding="utf-8"))
    return BuildTask(
        Path(document["bundle"]),
        specs.parse(document["spec"]),
        path.parent,
        Path(document["timing_cache"]),
        int(document["device"]),
    )
