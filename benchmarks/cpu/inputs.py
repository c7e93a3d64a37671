"""What the UNet is called with."""

from __future__ import annotations

import numpy as np

TOKENS = 77
Arrays = dict[str, np.ndarray]


def inputs(side: int, rows: list[int] | None = None) -> Arrays:
    """The same row for the same number, whatever else is in the batch."""
    drawn = []
    for row in rows or [0, 1]:
        rng = np.random.default_rng(row)
        drawn.append((rng.standard_normal((9, side, side)), 100 + 200 * row, rng.standard_normal((TOKENS, 768))))
    sample, timestep, hidden = (np.stack(each).astype(np.float32) for each in zip(*drawn, strict=True))
    return {"sample": sample, "timestep": timestep, "encoder_hidden_states": hidden}
