"""Calls that run as one: rows in, and each request's own rows back."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from gesso_backend.call import Call
from gesso_backend.serving.batch import Batch, Branch


def branch(arrival: int, rows: int = 2) -> Branch:
    call = Call("unet", {"sample": np.full((rows, 4, 8, 8), arrival, np.float32)})
    return Branch(cast("Any", None), cast("Any", None), 0, arrival, call)


def test_a_batch_gives_each_call_its_own_rows_back() -> None:
    """Guards the worst bug of its kind in the field: every request of a batch getting the first one's image."""
    batch = Batch([branch(7, rows=2), branch(8, rows=1), branch(9, rows=3)])
    inputs = batch.inputs()
    assert inputs["sample"][:, 0, 0, 0].tolist() == [7, 7, 8, 9, 9, 9]
    answers = batch.split({"noise_pred": inputs["sample"] * 10})
    assert [answer["noise_pred"][:, 0, 0, 0].tolist() for answer in answers] == [[70, 70], [80], [90, 90, 90]]


def test_a_call_alone_is_not_copied() -> None:
    """Guards the plain case's speed: latents go to the engine as they are."""
    alone = branch(0)
    assert Batch([alone]).inputs() is alone.call.inputs
