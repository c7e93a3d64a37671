"""The house: each package's folders import each other in one direction only, so that every room can be read alone.

`python tests/contract/test_house.py [FOLDER ...]` draws it.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "gesso_backend": ROOT / "python_backend" / "src" / "gesso_backend",
    "gesso_export": ROOT / "export" / "src" / "gesso_export",
    "gesso_client": ROOT / "client" / "src" / "gesso_client",
}
GROUND = "__init__"  # of what the package itself says, its version


def rooms(folder: Path) -> dict[str, set[str]]:
    """Room -> the rooms it imports, anywhere in its files, type hints included. A module of the package is a room."""
    graph: dict[str, set[str]] = {}
    for file in sorted(folder.rglob("*.py")):
        if "model_repository" in file.parts:
            continue
        room = _room(file.relative_to(folder).with_suffix("").parts, folder)
        uses = graph.setdefault(room, set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                package, *parts = name.split(".")
                if package == folder.name and parts:
                    uses.add(_room(tuple(parts), folder))
        uses.discard(room)
    return graph


def _room(parts: tuple[str, ...], folder: Path) -> str:
    return parts[0] if (folder / parts[0]).is_dir() or (folder / f"{parts[0]}.py").is_file() else GROUND


def floors(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Rooms by height: each imports only of those below. Raises graphlib.CycleError."""
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = tuple(sorted(sorter.get_ready()))
        found.append(ready)
        sorter.done(*ready)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_imports(package: str) -> None:
    """Guards against two rooms that can only be understood together; bundle, families, request and tokens once were."""
    graph = rooms(PACKAGES[package])
    assert len(graph) > 3, "no house was found"
    assert floors(graph)


LARGEST = 250  # lines
# Files that are one table or one thing of many lines; each says why at its top.
LONG = {"models.py": "gesso_export/published"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long_without_a_reason(package: str) -> None:
    """Guards reading in one go."""
    for file in PACKAGES[package].rglob("*.py"):
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > LARGEST:
            assert LONG.get(file.name, "nowhere") in file.as_posix(), f"{file.name}: {lines} lines"


def test_the_ground_is_small() -> None:
    """Guards the ground, which everybody may know: what lies there is known everywhere."""
    ground = {file.stem for file in PACKAGES["gesso_backend"].glob("*.py")}
    assert ground == {"__init__", "arrays", "call", "errors", "plugins", "settings"}


if __name__ == "__main__":
    for folder in [Path(name) for name in sys.argv[1:]] or PACKAGES.values():
        graph = rooms(folder)
        arrows = sum(map(len, graph.values()))
        try:
            stories = floors(graph)
        except graphlib.CycleError as error:
            stories, circle = [], " -> ".join(error.args[1])
            print(f"{folder.name}: {len(graph)} rooms, {arrows} arrows, a circle: {circle}")
            continue
        print(f"{folder.name}: {len(graph)} rooms on {len(stories)} floors, {arrows} arrows, no circle")
        for height, floor in enumerate(stories):
            print(f"  {height}: " + "; ".join(f"{room} <- {', '.join(sorted(graph[room])) or '-'}" for room in floor))
