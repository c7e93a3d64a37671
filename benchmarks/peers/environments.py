"""The environments that peers live in, and their exports. Standard library only: the sides read this in there."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.harness.paths import ROOT
from benchmarks.peers.peer import PEERS

ENVIRONMENTS = ROOT / ".venv-peers"
EXPORTS = ENVIRONMENTS / "exports"


def python_of(name: str) -> Path:
    """The Python that runs a peer."""
    peer = next(peer for peer in PEERS if peer.name == name)
    return ENVIRONMENTS / name / "bin" / "python" if peer.packages else Path(sys.executable)
