"""Where things are in the repository. Standard library only: sides of comparisons run in environments of their own."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
RESULTS = ROOT / "benchmarks" / "results"
CHECKPOINTS = ROOT / "checkpoints"
BIN = Path(sys.executable).parent  # of gesso-export and gesso-serve
