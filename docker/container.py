"""A container without Docker: the files of a last stage, running, with a process 1, mounts and a network of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stage_tree import StageTree, as_user, clean

RUN_SECONDS, STOP_SECONDS, POLL_SECONDS = 180.0, 60.0, 0.05
LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket() as probe:  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
    fcntl.ioctl(probe, 0x8914, struct.pack('16sh14x', b'lo', 0x41))
"""
MAPPED = """
import pathlib
maps = [line.split() for each in pathlib.Path('/proc').glob('[0-9]*/maps') for line in each.read_text().splitlines()]
for path in sorted({words[5] for words in maps if len(words) == 6}):
    if '.so' in path and not path.startswith(('/opt/', '/usr/local/')):
        print(path)
"""


@dataclass(frozen=True)
class World:
    """What the last stage says of its processes."""

    variables: Mapping[str, str]
    folder: str
    user: str


class Container:
    """The last stage, running: its process has id 1 in a world of its own."""

    def __init__(self, tree: StageTree, world: World, words: Sequence[str], log: Path) -> None:
        self._world = world
        self.log = log
        command = tree.command(words, world.variables, world.folder, world.user, ["--net"])
        with log.open("w") as out:
            self._unshare = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(POLL_SECONDS)
        self.pid = int(found[0])
        self._enter = ["nsenter", "--target", str(self.pid)]
        subprocess.run([*self._enter, "--net", sys.executable, "-c", LOOPBACK_UP], check=True)

    def run(self, *words: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """As `docker exec` runs it."""
        enter = [*self._enter, "--mount", "--pid", "--net", "--root", "--wd=" + self._world.folder]
        own = clean({**self._world.variables, **(variables or {})})
        return subprocess.run(
            [*enter, *as_user(self._world.user), *own, *words], capture_output=True, text=True, timeout=RUN_SECONDS
        )

    def must(self, *words: str) -> str:
        done = self.run(*words)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return (done.stdout + done.stderr).strip()

    def place(self, name: str) -> Path:
        """A file of the container's /tmp, seen from here."""
        return Path(f"/proc/{self.pid}/root/tmp/{name}")

    def processes(self) -> Iterator[Path]:
        """/proc/PID of all of its processes."""
        mine = os.readlink(f"/proc/{self.pid}/ns/pid")
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(each / "ns" / "pid") == mine:
                    yield each
            except OSError:  # processes come and go
                continue

    def rights(self) -> list[str]:
        """Of each of its processes: user ids and effective capabilities."""
        found = []
        for each in self.processes():
            status = dict(line.split(":", 1) for line in (each / "status").read_text().splitlines())
            found.append(f"uid {status['Uid'].split()[0]}, capabilities {status['CapEff'].strip()}")
        return found

    def packages(self) -> set[str]:
        """The Debian packages of the libraries that its processes have mapped from /usr."""
        owners = set()
        for library in self.must("python3", "-c", MAPPED).split():
            for path in (library, library.removeprefix("/usr")):
                found = subprocess.run(["dpkg-query", "--search", path], capture_output=True, text=True)
                owners |= {line.split(":")[0] for line in found.stdout.splitlines()}
        return owners

    def stop(self) -> int:
        """Exit status after a SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)
        return self._unshare.wait(STOP_SECONDS)

    def kill(self) -> None:
        if self._unshare.poll() is None:
            self._unshare.kill()  # --kill-child takes the rest with it
            self._unshare.wait()
