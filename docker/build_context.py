"""What `docker build` would send: the files that .dockerignore lets through."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pattern:
    expression: re.Pattern[str]
    keep: bool  # written with a `!`


@dataclass(frozen=True)
class BuildContext:
    folder: Path

    @classmethod
    def make(cls, source: Path, target: Path) -> BuildContext:
        """Copy what is let through from `source` to `target`, links as links."""
        patterns = read_patterns(source / ".dockerignore")
        for base, folders, files in os.walk(source):
            folders[:] = [name for name in folders if name != ".git"]
            links = [name for name in folders if (Path(base) / name).is_symlink()]
            for name in [*files, *links]:
                path = (Path(base) / name).relative_to(source)
                if not ignored(path, patterns):
                    (target / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source / path, target / path, follow_symlinks=False)
        return cls(target)


def read_patterns(file: Path) -> list[Pattern]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [_pattern(line) for line in lines if line and not line.startswith("#")]


def ignored(path: Path, patterns: list[Pattern]) -> bool:
    """Docker's rule: the last pattern decides that matches the path or a folder it is in."""
    names = [str(path), *(str(parent) for parent in path.parents if str(parent) != ".")]
    for pattern in reversed(patterns):
        if any(pattern.expression.fullmatch(name) for name in names):
            return not pattern.keep
    return False


def _pattern(line: str) -> Pattern:
    keep = line.startswith("!")
    text = re.escape(line.removeprefix("!").strip("/"))
    for glob, expression in ((r"\*\*/", "(?:.*/)?"), (r"\*\*", ".*"), (r"\*", "[^/]*"), (r"\?", "[^/]")):
        text = text.replace(glob, expression)
    return Pattern(re.compile(text), keep)
