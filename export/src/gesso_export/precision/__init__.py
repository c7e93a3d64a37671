"""The precisions that networks are written in, each a module of this package with a `PRECISION`.

Adding one is adding a file; nothing lists them by name. `precision.py` is the contract.
"""

from __future__ import annotations

import importlib
import pkgutil

from gesso_export.precision.precision import Precision

__all__ = ["DEFAULT", "PRECISIONS", "discover", "picture_tolerances", "tolerances"]

DEFAULT = "fp32"  # of a bundle, and of the networks that another precision is not for


def discover() -> dict[str, Precision]:
    """What the modules of this package offer, by name, the most exact one first."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found: list[Precision] = [module.PRECISION for module in modules if hasattr(module, "PRECISION")]
    return {precision.name: precision for precision in sorted(found, key=lambda precision: precision.tolerance)}


PRECISIONS = discover()


def tolerances() -> dict[str, float]:
    """Largest error allowed in each, in standard deviations of the expected output."""
    return {name: precision.tolerance for name, precision in PRECISIONS.items()}


def picture_tolerances() -> dict[str, float]:
    """Largest distance from what diffusers' own pipeline paints, in each."""
    return {name: precision.picture_tolerance for name, precision in PRECISIONS.items()}
