"""reference.npz: inputs of every network and what torch answered in float32, to hold a bundle against at any time."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gesso_export.errors import VerificationError

FILE = "reference.npz"
Array = NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """One call of one network."""

    inputs: Arrays
    outputs: Arrays


def save(cases: Mapping[str, list[Case]], path: Path) -> None:
    """Write the cases of every network; keys are `network/number/inputs/name`."""
    np.savez(
        path,
        **{
            f"{network}/{number}/{side}/{name}": array
            for network, listed in cases.items()
            for number, case in enumerate(listed)
            for side, arrays in (("inputs", case.inputs), ("outputs", case.outputs))
            for name, array in arrays.items()
        },
    )


def load(path: Path) -> dict[str, list[Case]]:
    """Read what `save` wrote. Raises VerificationError when it is something else."""
    cases: dict[str, list[Case]] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                network, number, side, name = key.split("/")
                listed = cases.setdefault(network, [])
                if int(number) == len(listed):
                    listed.append(Case({}, {}))
                getattr(listed[int(number)], side)[name] = archive[key]
    except (OSError, ValueError, IndexError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise VerificationError(f"{FILE} cannot be read: {error}") from error
    return cases
