"""A folder that stands in for a container: the steps of a Dockerfile's stage run in it as in an image. Linux, as root.

The base image python:*-slim-bookworm is played by this machine's Debian 12: its /usr, read-only, with a copy of a
Python at /usr/local. Nothing else of the machine is seen, so what a stage needs it has to install or copy. Every
process has its own mounts and process ids, and the served container its own network too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

DEVICES = ("null", "zero", "full", "random", "urandom")
MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr, as in Debian
SHM_BYTES = 64 << 20  # what Docker gives a container that asks for no more
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


def copy_python(prefix: Path, target: Path) -> None:
    """A Python installation as the base image has it: at /usr/local, knowing itself by that path."""
    skip = shutil.ignore_patterns("__pycache__", "test", "site-packages", "*.a", "share")
    shutil.copytree(prefix, target, symlinks=True, ignore=skip)
    (library,) = (target / "lib").glob("python3.*")
    (library / "site-packages").mkdir()
    for config in library.glob("_sysconfigdata*.py"):
        config.write_text(config.read_text().replace(str(prefix), "/usr/local"))
    bundled = next((library / "ensurepip" / "_bundled").glob("pip-*.whl"))
    shutil.unpack_archive(bundled, library / "site-packages", "zip")
    for name in ("python", "python3"):
        link = target / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)
    for script in (target / "bin").iterdir():
        if script.name.startswith(("pip", "idle", "2to3", "pydoc")):
            script.unlink()
    pip = target / "bin" / "pip"
    pip.write_text("#!/usr/local/bin/python3\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n")
    pip.chmod(0o755)


class StageTree:
    """One stage: `root` holds the files that its steps made. Mounts end with this process's namespace."""

    def __init__(self, root: Path, python: Path, binds: Sequence[Path]) -> None:
        """python: the folder made by `copy_python`. binds: further folders of this machine, seen read-only."""
        self.root = root
        self._local = root.with_name(root.name + ".local")
        for folder in ("usr", "etc", "proc", "dev", "tmp", "root", "opt"):
            (root / folder).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        for name in MERGED:
            (root / name).symlink_to(f"usr/{name}")
        _mount("--bind", "/usr", root / "usr")
        _mount("--options", "remount,bind,ro", root / "usr")
        for name in ("upper", "work"):
            (self._local / name).mkdir(parents=True)
        layers = f"lowerdir={python},upperdir={self._local / 'upper'},workdir={self._local / 'work'}"
        _mount("--types", "overlay", "--options", layers, "overlay", root / "usr" / "local")
        self._make_etc()
        self._make_devices()
        for folder in binds:
            self.inside(str(folder)).mkdir(parents=True, exist_ok=True)
            _mount("--bind", folder, self.inside(str(folder)))

    def inside(self, path: str) -> Path:
        """Where a path of the container is on this machine."""
        return self.root / path.lstrip("/")

    def command(
        self,
        words: Sequence[str],
        variables: Mapping[str, str],
        folder: str,
        user: str = "0:0",
        isolated: Sequence[str] = (),
    ) -> list[str]:
        """The command that runs `words` in this tree. isolated: further options of unshare, such as --net."""
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *isolated]
        return [*enter, "--root", str(self.root), "--wd", folder, *as_user(user), *clean(variables), *words]

    def run(self, words: Sequence[str], variables: Mapping[str, str], folder: str, user: str = "0:0") -> None:
        """Raises CalledProcessError."""
        subprocess.run(self.command(words, variables, folder, user), check=True, stdin=subprocess.DEVNULL)

    def freeze(self) -> None:
        """A read-only root with a tmpfs at /tmp, as `docker run --read-only --tmpfs /tmp` has it."""
        _mount("--options", "remount,ro", self.inside("/usr/local"))
        _mount("--rbind", self.root, self.root)
        _mount("--options", "remount,bind,ro", self.root)
        _mount("--types", "tmpfs", "--options", "mode=1777", "tmpfs", self.inside("/tmp"))

    def made(self) -> dict[str, int]:
        """Bytes on disk of what the steps added to the base image, by folder."""
        folders = {f"/{path.name}": path for path in self.root.iterdir() if path.is_dir() and not path.is_symlink()}
        for base in ("usr", "etc", "proc", "dev", "tmp", "root"):
            folders.pop(f"/{base}")
        folders["/usr/local"] = self._local / "upper"
        return {name: _disk_usage(path) for name, path in sorted(folders.items())}

    def _make_etc(self) -> None:
        etc = self.root / "etc"
        (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (etc / "group").write_text("root:x:0:\n")
        (etc / "nsswitch.conf").write_text("hosts: files dns\n")
        (etc / "ld.so.conf").write_text("/usr/local/lib\n/usr/lib/x86_64-linux-gnu\n")
        for name in ("hosts", "resolv.conf"):
            shutil.copyfile(f"/etc/{name}", etc / name)
        (etc / "ssl").mkdir()
        _mount("--bind", "/etc/ssl", etc / "ssl")
        subprocess.run(["ldconfig", "-r", str(self.root)], check=True)

    def _make_devices(self) -> None:
        dev = self.root / "dev"
        _mount("--types", "tmpfs", "--options", "mode=755", "tmpfs", dev)
        for name in DEVICES:
            (dev / name).touch()
            _mount("--bind", f"/dev/{name}", dev / name)
        (dev / "shm").mkdir()
        _mount("--types", "tmpfs", "--options", f"mode=1777,size={SHM_BYTES}", "tmpfs", dev / "shm")


def as_user(user: str) -> list[str]:
    """setpriv's command line for UID:GID, with no capability left when that is not root."""
    uid, _, gid = user.partition(":")
    words = ["setpriv", "--reuid", uid, "--regid", gid or uid, "--clear-groups"]
    return words if uid == "0" else [*words, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]


def clean(variables: Mapping[str, str]) -> list[str]:
    return ["env", "-i", *(f"{key}={value}" for key, value in variables.items())]


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def _disk_usage(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def enter_namespace(script: str, arguments: Sequence[str]) -> None:
    """Start this program again with mounts of its own, which end with it. Does not return."""
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, script, *arguments])
