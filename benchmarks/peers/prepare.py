"""What each side needs: environments, checkpoint, bundle, exports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.harness.artefacts import key_file, made, random_bundle, random_checkpoint
from benchmarks.peers.environments import ENVIRONMENTS, EXPORTS
from benchmarks.peers.peer import PEERS, Peer

NAME, PRESET = "bench-sd15", "sd15"


def checkpoint() -> Path:
    return random_checkpoint(NAME, PRESET)


def bundle() -> Path:
    return random_bundle(NAME, PRESET)


def prepare() -> None:
    bundle()
    source = checkpoint()
    for peer in PEERS:
        if peer.packages:
            install(peer)
            made(EXPORTS / peer.name, key_file(source).read_text(), partial(export, peer, source))


def install(peer: Peer) -> None:
    environment = ENVIRONMENTS / peer.name
    if (environment / "ready").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(environment / "bin/pip"), "install", "--quiet", *peer.packages], check=True)
    # It comes with optimum-intel, no pipeline here needs it, and it does not load beside a torch without CUDA.
    subprocess.run([str(environment / "bin/pip"), "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    (environment / "ready").touch()


def export(peer: Peer, source: Path) -> None:
    out = EXPORTS / peer.name
    unfinished = out.with_name(f".{out.name}.partial")
    command = [str(ENVIRONMENTS / peer.name / "bin" / peer.export[0]), *peer.export[1:], "--model", f"{source}/"]
    subprocess.run([*command, str(unfinished)], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if out.exists():
        shutil.rmtree(out)
    unfinished.rename(out)
