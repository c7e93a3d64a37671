"""What a call of each network costs on this machine, t(rows, pixels), and how many rows are worth a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gesso_backend.model.bundle import Bundle

# A row may cost this much more than in the best batch: then a larger one is not worth its wait. Under load, and else.
WORTH, LEAN = 1.10, 1.25
DEFAULT_ROWS = {"pixels": 1, "tokens": 8, "latents": 8}  # where nothing was measured
GUESS_SECONDS = 1e-5  # of a row and latent, where nothing was measured


@dataclass(frozen=True)
class Costs:
    """seconds: network -> pixels (or latents) of its picture -> rows -> seconds of a call.
    sees: what each network works on, for guesses where nothing was measured."""

    seconds: Mapping[str, Mapping[int, Mapping[int, float]]] = field(default_factory=dict)
    sees: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Bundle, seconds: Mapping[str, Mapping[int, Mapping[int, float]]] | None = None) -> Costs:
        """Measured ones, or guesses."""
        return cls(seconds or {}, {name: spec.sees for name, spec in bundle.networks.items()})

    def estimate(self, network: str, rows: int, pixels: int) -> float:
        """Seconds of a call: by rows between the measured ones, by pixels in proportion to the nearest size."""
        if not self.seconds.get(network):
            return GUESS_SECONDS * rows * pixels
        size = self._nearest(network, pixels)
        times = self.seconds[network][size]
        most = max(times)
        scale = max(1.0, rows / most) * pixels / size
        return float(np.interp(min(rows, most), sorted(times), [times[row] for row in sorted(times)])) * scale

    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        """Most rows worth batching: where a row costs nearly what it costs in the best batch.

        Of another size as many pixels in all, for a device is filled by pixels, not by rows.
        """
        if not self.seconds.get(network):
            return DEFAULT_ROWS[self.sees.get(network, "latents")]
        size = self._nearest(network, pixels)
        times = self.seconds[network][size]
        best = min(seconds / rows for rows, seconds in times.items())
        worth = min(rows for rows, seconds in times.items() if seconds / rows <= (WORTH if crowded else LEAN) * best)
        return max(1, worth * size // pixels)

    def _nearest(self, network: str, pixels: int) -> int:
        return min(self.seconds[network], key=lambda size: abs(math.log(size / pixels)))


@dataclass(frozen=True)
class RowCaps:
    """The row caps that the costs say, unless the settings fix them."""

    costs: Costs
    rows: int  # of networks that see latents or tokens; 0: what the costs say
    pixel_rows: int  # of those that see pixels; 0: the same

    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        fixed = self.pixel_rows if self.costs.sees.get(network) == "pixels" else self.rows
        return fixed or self.costs.cap(network, pixels, crowded)
