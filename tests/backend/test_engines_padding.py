"""Rows that do not know their batch, over engines whose answers depend on it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from backend.fakes import fake_bundle
from gesso_backend.arrays import Arrays
from gesso_backend.engines.engine import NoProfile, Outputs
from gesso_backend.engines.padding import PaddedEngine, filled, sizes_for
from gesso_backend.settings import Settings

NETWORKS = fake_bundle().networks


class Flawed:
    """x + 1, and a little more: by the size of the batch (`by_size`), or by the place in it (`by_place`)."""

    def __init__(self, by_size: dict[int, float] | None = None, by_place: float = 0.0, most: int | None = None) -> None:
        self.by_size, self.by_place, self.most = by_size or {}, by_place, most
        self.sizes: list[int] = []

    def most_rows(self, inputs: Arrays) -> int | None:
        return self.most

    def run(self, inputs: Arrays, size: int) -> Outputs:
        self.sizes.append(size)
        x = filled(inputs["x"], size)
        places = np.arange(size, dtype=np.float32)[:, None] * np.float32(self.by_place)
        return {"y": x + 1 + np.float32(self.by_size.get(size, 0.0)) + places}


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((count, 3), np.float32)


@pytest.mark.parametrize("count", range(1, 20))
def test_a_row_alone_equals_the_row_in_every_batch_though_the_engine_differs_by_size(count: int) -> None:
    """Guards the determinism contract on a GPU, where another batch size may be another kernel."""
    engine = PaddedEngine("unet", Flawed({1: 1e-3, 2: 2e-3, 3: 3e-3, 8: 4e-3}), [8])
    x = rows(count)
    together = engine(x=x)["y"]
    assert together.shape == x.shape
    for row in range(count):
        np.testing.assert_array_equal(engine(x=x[row : row + 1])["y"][0], together[row])


def test_only_one_size_is_ever_run_by_default() -> None:
    """Guards the default's promise at its root."""
    flawed = Flawed()
    engine = PaddedEngine("unet", flawed, sizes_for(NETWORKS["unet"], Settings()))
    for count in (1, 2, 7, 8, 9, 17):
        engine(x=rows(count))
    assert set(flawed.sizes) == {8}


def test_a_size_that_answers_otherwise_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """Guards --batch-sizes: what is faster may only be used when it gives the same bytes."""
    flawed = Flawed({2: 1e-3})
    engine = PaddedEngine("unet", flawed, [2, 4, 8])
    with caplog.at_level(logging.WARNING):
        engine(x=rows(1))
    assert "unet: batches of [2] give other bytes than of 8 and are not used" in caplog.text
    flawed.sizes.clear()
    for count, size in ((1, 4), (4, 4), (5, 8)):
        engine(x=rows(count))
        assert flawed.sizes.pop() == size


@pytest.mark.parametrize("count", [1, 2, 5, 8, 11])
def test_rows_whose_place_matters_run_one_at_a_time(count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against kernels that split their sums by place: such rows cannot share a batch at all."""
    flawed = Flawed(by_place=1e-3)
    engine = PaddedEngine("unet", flawed, [8])
    x = rows(count)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(engine(x=x)["y"], x + 1)  # all of them in the first place
    assert "one at a time" in caplog.text
    assert len(flawed.sizes) == 1 + count


def test_zeros_do_not_hide_a_flaw() -> None:
    """Guards the trial: a server that profiles itself with zeros meets every shape with zeros first."""

    class Scaled(Flawed):
        def run(self, inputs: Arrays, size: int) -> Outputs:
            x = filled(inputs["x"], size)
            return {"y": x * (1 + np.arange(size, dtype=np.float32)[:, None] * np.float32(1e-3))}

    engine = PaddedEngine("unet", Scaled(), [8])
    engine(x=np.zeros((2, 3), np.float32))
    x = rows(4)
    np.testing.assert_array_equal(engine(x=x)["y"], x)


def test_an_engine_that_takes_fewer_rows_is_given_fewer() -> None:
    """Guards engines built for smaller batches than the server was set for."""
    flawed = Flawed(most=4)
    engine = PaddedEngine("unet", flawed, [8])
    x = rows(9)
    np.testing.assert_array_equal(engine(x=x)["y"], x + 1)
    assert set(flawed.sizes) == {4}


def test_a_shape_that_cannot_be_run_is_tried_again_next_time() -> None:
    """Guards against a refusal that is remembered as a way to run."""

    class None_(Flawed):
        def most_rows(self, inputs: Arrays) -> int | None:
            raise NoProfile("unet: no profile")

    engine = PaddedEngine("unet", None_(), [8])
    for _ in range(2):
        with pytest.raises(NoProfile):
            engine(x=rows(1))


@pytest.mark.parametrize(
    ("network", "settings", "sizes"),
    [
        ("unet", Settings(), (8,)),
        ("vae_decoder", Settings(), (1,)),
        ("unet", Settings(max_rows=16), (16,)),
        ("unet", Settings(max_rows=16, batch_sizes="2,8"), (2, 8, 16)),
        ("unet", Settings(batch_sizes="2,16"), (2, 16)),
        ("vae_decoder", Settings(max_vae_rows=4, batch_sizes="2,8"), (2, 4)),
    ],
)
def test_sizes_follow_from_the_settings(network: str, settings: Settings, sizes: tuple[int, ...]) -> None:
    """Guards the one place where rows and sizes meet."""
    assert sizes_for(NETWORKS[network], settings) == sizes
