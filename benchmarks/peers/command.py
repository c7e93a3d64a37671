"""gesso beside its peers on a CPU, for docs/cpu.md: the same weights, steps and threads (`make bench-peers`).

    python -m benchmarks peers prepare                what each side needs: environments, checkpoint, bundle, exports
    python -m benchmarks peers measure                gesso beside each of them, at 256 and 512 px (half an hour)
    python -m benchmarks peers write                  the table of docs/cpu.md from what was measured

gesso is asked through its SDK, gRPC and a real Triton. Its peers: diffusers as it is and with torch.compile; optimum's
ONNX Runtime pipeline; OpenVINO GenAI. The last two live in environments of their own (`.venv-peers/`), since they need
older packages. gesso and one peer stand loaded and alternate, picture by picture, so that a machine that slows down
slows both; what counts is the median of the ratios.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import page
from benchmarks.harness.alternate import alternate
from benchmarks.harness.machine import cpu, threads
from benchmarks.harness.paths import DOCS, RESULTS
from benchmarks.harness.side import side
from benchmarks.peers.environments import python_of
from benchmarks.peers.peer import PEERS, SIZES, Size
from benchmarks.peers.prepare import bundle, checkpoint, prepare
from benchmarks.peers.report import markdown

FILE = RESULTS / "peers.json"
PAGE = DOCS / "cpu.md"
MARK = "<!-- measured by `make bench-peers` -->"
ROUNDS = {256: 3, 512: 2}  # by pixels


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare")
    commands.add_parser("write")
    measuring = commands.add_parser("measure")
    others = [peer.name for peer in PEERS[1:]]
    measuring.add_argument("--peers", nargs="+", default=others, choices=others)
    measuring.add_argument("--pixels", nargs="+", type=int, default=[size.side for size in SIZES])
    options = parser.parse_args(arguments)
    if options.command == "prepare":
        prepare()
    elif options.command == "write":
        page.put(PAGE, MARK, markdown(json.loads(FILE.read_text())))
    else:
        for size in SIZES:
            for name in options.peers if size.side in options.pixels else ():
                save(measure(size, name))
    return 0


def measure(size: Size, name: str) -> dict[str, Any]:
    """gesso and a peer, alternating; the first round warms both up."""
    places = (str(checkpoint()), str(bundle()), str(size.side))
    with (
        side("benchmarks.peers.worker", "gesso", *places, python=python_of("gesso")) as gesso,
        side("benchmarks.peers.worker", name, *places, python=python_of(name)) as peer,
    ):
        first, *rounds = alternate({"gesso": gesso, "peer": peer}, ROUNDS[size.side] + 1)
    return {
        "peer": name,
        "pixels": size.side,
        "steps": size.steps,
        "first": first["peer"]["seconds"],
        "seconds": [answers["peer"]["seconds"] for answers in rounds],
        "gesso": [answers["gesso"]["seconds"] for answers in rounds],
        "versions": {"gesso": first["gesso"]["versions"], name: first["peer"]["versions"]},
    }


def save(run: dict[str, Any]) -> None:
    """Put the run into the results, in the place of an earlier one of the same peer and size."""
    print(json.dumps(run), flush=True)
    runs = json.loads(FILE.read_text())["runs"] if FILE.exists() else []
    runs = [old for old in runs if (old["peer"], old["pixels"]) != (run["peer"], run["pixels"])]
    machine = {"cpu": cpu(), "threads": threads()}
    FILE.write_text(json.dumps({"machine": machine, "runs": [*runs, run]}, indent=2) + "\n")
