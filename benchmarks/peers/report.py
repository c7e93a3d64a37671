"""The table of docs/cpu.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import page
from benchmarks.harness.alternate import faster
from benchmarks.harness.machine import words
from benchmarks.peers.peer import PEERS, SIZES, Peer, Size


def markdown(results: Mapping[str, Any]) -> str:
    heads = ["guidance 7.5"]
    for size in SIZES:
        heads += [f"{size.side} px, {size.steps} steps", "gesso beside it", "gesso is faster by"]
    rows = [
        [peer.title, *(cell for size in SIZES for cell in cells(results, peer, size))]
        for peer in PEERS
        if peer.name != "gesso"
    ]
    titles = {peer.name: peer.title for peer in PEERS}
    used = {titles[name]: versions for run in results["runs"] for name, versions in run["versions"].items()}
    about = [words(results["machine"]), *(f"{title}: {words(versions)}" for title, versions in used.items())]
    return f"{page.table(heads, rows)}\n\nMachine and versions: {'; '.join(about)}."


def cells(results: Mapping[str, Any], peer: Peer, size: Size) -> list[str]:
    run = next((run for run in results["runs"] if (run["peer"], run["pixels"]) == (peer.name, size.side)), None)
    if run is None:
        return ["not measured", "", ""]
    seconds = (statistics.median(run[key]) for key in ("seconds", "gesso"))
    return [*(f"{value:.2f} s" for value in seconds), f"{faster(run['gesso'], run['seconds']):.2f}x"]
