"""A plugin for pytest: with `--quick` it runs only the tests that need no torch, no exported bundle and no Triton.

No list says which these are. While tests are collected, a file that imports torch, itself or through what it tests, is
left out; so are the tests whose fixtures make bundles. While they run, torch cannot be imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec

import pytest

OPTION = "--quick"
HEAVY = ("torch", "diffusers", "transformers")
BUNDLES = {"gesso_bundles", "fresh_bundles"}
MARKS = ("e2e", "slow", "gpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="only what needs no torch, no exported bundle and no Triton")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(OPTION):
        config.pluginmanager.register(Quick())


class Quick:
    """Stands first among the importers for as long as pytest runs."""

    def __init__(self) -> None:
        already = [name for name in HEAVY if name in sys.modules]
        assert not already, f"{OPTION}: {already[0]} is imported before the first test is collected"
        self.collecting = True
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name not in HEAVY:
            return None
        if self.collecting:
            raise pytest.skip.Exception(f"needs {name}", allow_module_level=True)
        raise ImportError(f"{name} may not be imported with {OPTION}", name=name)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        def fits(item: pytest.Item) -> bool:
            needs_bundle = BUNDLES & set(getattr(item, "fixturenames", ()))
            return not needs_bundle and not any(item.get_closest_marker(mark) for mark in MARKS)

        config.hook.pytest_deselected(items=[item for item in items if not fits(item)])
        items[:] = [item for item in items if fits(item)]

    def pytest_collection_finish(self) -> None:
        self.collecting = False

    def pytest_unconfigure(self) -> None:
        sys.meta_path.remove(self)  # type: ignore[arg-type]
