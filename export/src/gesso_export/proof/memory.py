"""How much memory this process may still take, on Linux; elsewhere nobody knows, and nothing is refused for it."""

from __future__ import annotations

import re
from pathlib import Path

_PROC, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Bytes: what the machine has left, or the container if that is less; None when neither says."""
    left = []
    if found := re.search(r"^MemAvailable: +(\d+) kB", _read(proc), re.MULTILINE):
        left.append(1024 * int(found[1]))
    limit, used = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    cached = re.search(r"^inactive_file (\d+)", _read(cgroup / "memory.stat"), re.MULTILINE)
    if limit.isdigit() and used.isdigit():
        left.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return min(left, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
