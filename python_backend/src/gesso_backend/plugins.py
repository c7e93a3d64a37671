"""What is found by name among installed packages: kinds of models and engines.

Our own stand in this package's pyproject.toml as entry points, and anybody's in theirs; nothing else lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

KINDS, ENGINES = "gesso_backend.kinds", "gesso_backend.engines"


@cache
def found(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group, by name; `.load()` imports one."""
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}
