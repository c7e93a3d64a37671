"""Run a benchmark by its name.

    python -m benchmarks                    list them
    python -m benchmarks NAME [options]     run one; NAME --help says what it takes

A benchmark is a module of this package with a function `main(arguments) -> status`, or a folder with that function in
its command.py. It is found by being there, and its docstring's first line is what the list says of it.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def main(arguments: Sequence[str]) -> int:
    found = benchmarks()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m benchmarks NAME [options]\n")
        print("\n".join(f"  {name:14} {sentence(file)}" for name, file in found.items()))
        return 0
    name, *others = arguments
    if name not in found:
        print(f"benchmarks: there is no {name!r}; there are {', '.join(found)}", file=sys.stderr)
        return 2
    sys.argv[0] = f"python -m benchmarks {name}"  # which is what --help shows
    module = f"benchmarks.{name}" if found[name].stem == name else f"benchmarks.{name}.command"
    status: int = importlib.import_module(module).main(others)
    return status


def benchmarks(folder: Path = FOLDER) -> dict[str, Path]:
    """Name -> the file with its `main`."""
    found = {file.stem: file for file in folder.glob("*.py") if not file.stem.startswith("__")}
    found |= {file.parent.name: file for file in folder.glob("*/command.py")}
    return dict(sorted(found.items()))


def sentence(file: Path) -> str:
    """The first line of a module's docstring; nothing is imported for it."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
