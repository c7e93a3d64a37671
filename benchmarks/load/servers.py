"""The servers that are compared: gesso's policies, each with and without batches."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.harness.server import Server, serve

ALONE = ("--max-rows=2", "--max-vae-rows=1")  # a guided request has two rows: no two share a call
SERVERS = {
    "fifo, one at a time": ("--policy=fifo", *ALONE),
    "request batches of 8": ("--policy=request-batches",),
    "fifo": ("--policy=fifo",),
    "srpt, one at a time": ("--policy=srpt", *ALONE),
    "srpt (default)": (),
}
FIFO, BATCHES, BATCHED_FIFO, ORDER_ALONE, DEFAULT = SERVERS


def serving(bundle: Path, name: str) -> AbstractContextManager[Server]:
    return serve(bundle, "--cache-mib=0", *SERVERS[name])
