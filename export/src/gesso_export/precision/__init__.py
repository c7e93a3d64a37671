"""The precisions that networks are written in, each a module of this package with a `PRECISION`.

Adding one is adding a file; nothing lists them by name. `precision.py` is the contract.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping

from gesso_export.precision.precision import Precision

__all__ = ["DEFAULT", "PRECISIONS", "tolerances"]

DEFAULT = "fp32"  # of a bundle, and of the networks that another precision is not for


def _by_name(modules: Iterable[str]) -> dict[str, Precision]:
    """The precisions of these modules, the most exact one first."""
    found: list[Precision] = [
        module.PRECISION for name in modules if hasattr(module := importlib.import_module(name), "PRECISION")
    ]
    return {precision.name: precision for precision in sorted(found, key=lambda precision: precision.tolerance)}


PRECISIONS: Mapping[str, Precision] = _by_name(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))


def tolerances() -> dict[str, float]:
    """Largest error allowed in each, in standard deviations of the expected output."""
    return {name: precision.tolerance for name, precision in PRECISIONS.items()}
