"""Tables, and the places of a page that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def put(page: Path, mark: str, *tables: str) -> None:
    """Write `tables` into a page, each between two lines with the mark; nothing else of it changes."""
    page.write_text(replaced(page.read_text(encoding="utf-8"), mark, *tables), encoding="utf-8")


def replaced(text: str, mark: str, *tables: str) -> str:
    """The page's text with these tables. Raises ValueError when it has not two marks for each."""
    parts = text.split(mark)
    if len(parts) != 2 * len(tables) + 1:
        raise ValueError(f"expected {2 * len(tables)} lines {mark}, found {len(parts) - 1}")
    parts[1::2] = [f"\n{table}\n" for table in tables]
    return mark.join(parts)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join([row(heads), "|---" * len(heads) + "|", *map(row, rows)])


def row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
