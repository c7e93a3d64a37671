"""The families of models that are served, each a module of this package with a `FAMILY`: see `family` for the contract.

Adding one is adding a file here and one in gesso-export (CONTRIBUTING.md); nothing lists them by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from gesso_backend.families.family import Family

__all__ = ["FAMILIES", "Family"]

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {module.FAMILY.name: module.FAMILY for module in _MODULES if hasattr(module, "FAMILY")}
)
