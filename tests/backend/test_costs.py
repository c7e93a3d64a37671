"""What calls take: how it is measured, kept, and turned into row caps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.fakes import FakeEngines, engine_set, fake_bundle
from gesso_backend.serving import measure as profiles
from gesso_backend.serving.costs import Costs, RowCaps
from gesso_backend.serving.measure import load_or_measure, measure
from gesso_backend.settings import Settings

NATIVE = 64  # pixels a side, of the fake bundle; its latents are 8 x 8


class Timed(FakeEngines):
    """Networks whose calls take what `seconds(network, rows)` says, on a clock that stands still otherwise."""

    def __init__(self, seconds: Any) -> None:
        super().__init__(self._spend)
        self._seconds = seconds
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def _spend(self, network: str, inputs: Any) -> None:
        self.now += self._seconds(network, len(next(iter(inputs.values()))))


def measured(seconds: Any, budget: float = 1e9) -> tuple[Costs, Timed]:
    engines = Timed(seconds)
    return measure(fake_bundle(), engine_set(engines), budget, engines.clock), engines


def test_the_profile_is_what_calls_took() -> None:
    """Guards the units: seconds, by network, size and rows."""
    profile, _ = measured(lambda network, rows: 0.5 + 0.25 * rows)
    assert sorted(profile.seconds["unet"]) == [4 * 4, 8 * 8]
    assert sorted(profile.seconds["vae_encoder"]) == [32 * 32, 64 * 64]
    assert profile.seconds["unet"][64][4] == pytest.approx(1.5)


def test_batches_grow_only_while_that_pays() -> None:
    """Guards the start's length on a CPU, where a second row costs as much as the first."""
    profile, engines = measured(lambda network, rows: 0.1 * rows)
    assert sorted(profile.seconds["unet"][64]) == [1, 2]
    assert profile.cap("unet", 64) == 1
    assert max(engines.rows("unet")) == 2


def test_the_cap_is_the_smallest_batch_that_is_nearly_the_best() -> None:
    """Guards latency: 16 rows that cost 3 % less each than 8 are not worth waiting for."""
    table = {1: 1.0, 2: 1.1, 4: 1.4, 8: 2.0, 16: 3.88}
    profile, _ = measured(lambda network, rows: table[rows])
    assert profile.cap("unet", 64) == 8


def test_the_cap_for_an_idle_server_is_leaner() -> None:
    """Guards latency: where half the rows take little more than half the time, few requests run few at a time; where
    they take as long, all ride along."""
    steep = Costs({"unet": {64: {2: 1.4, 4: 2.4, 8: 4.0}}})
    flat = Costs({"unet": {64: {2: 1.0, 4: 1.05, 8: 1.1}}})
    assert [steep.cap("unet", 64, crowded) for crowded in (True, False)] == [8, 4]
    assert [flat.cap("unet", 64, crowded) for crowded in (True, False)] == [8, 8]


def test_larger_pictures_have_smaller_caps() -> None:
    """Guards memory and latency at sizes that were not measured: a device is filled by pixels."""
    profile = Costs({"unet": {64: {1: 1.0, 2: 1.1, 4: 1.3}}})
    assert [profile.cap("unet", pixels) for pixels in (32, 64, 128, 256, 100_000)] == [8, 4, 2, 1, 1]


def test_estimates_lie_between_what_was_measured_and_grow_beyond_it() -> None:
    """Guards the order of requests of odd sizes."""
    profile = Costs({"unet": {64: {1: 1.0, 2: 1.2, 4: 2.0}}})
    assert profile.estimate("unet", 3, 64) == pytest.approx(1.6)
    assert profile.estimate("unet", 8, 64) == pytest.approx(4.0)
    assert profile.estimate("unet", 2, 128) == pytest.approx(2.4)


def test_without_a_profile_the_old_caps_hold() -> None:
    """Guards servers that are told not to profile."""
    assert [Costs.of(fake_bundle()).cap(network, 64) for network in ("unet", "text_encoder", "vae_decoder")] == [
        8,
        8,
        1,
    ]
    assert Costs().estimate("unet", 2, 128) > Costs().estimate("unet", 2, 64) > 0


def test_the_settings_caps_come_before_the_profiles() -> None:
    """Guards `--max-rows` and `--max-vae-rows`."""
    profile = Costs.of(fake_bundle(), {"unet": {64: {1: 1.0, 2: 1.1}}, "vae_decoder": {64: {1: 1.0, 2: 1.1}}})
    fixed = RowCaps(profile, 5, 3)
    assert (fixed.cap("unet", 64), fixed.cap("text_encoder_2", 1), fixed.cap("vae_decoder", 64)) == (5, 5, 3)
    assert (RowCaps(profile, 0, 0).cap("unet", 64), RowCaps(profile, 0, 0).cap("vae_decoder", 64)) == (2, 2)


def test_the_budget_ends_the_profiling() -> None:
    """Guards the start of a server with a large model on a slow machine: every network once, and no more."""
    profile, _ = measured(lambda network, rows: 100.0, budget=1.0)
    assert {name: {size: len(times) for size, times in sizes.items()} for name, sizes in profile.seconds.items()} == {
        "text_encoder": {1: 1},
        "unet": {16: 1},
        "vae_encoder": {1024: 1},
        "vae_decoder": {16: 1},
    }


def test_a_batch_that_does_not_fit_the_memory_is_left_out() -> None:
    """Guards GPUs: running out of memory at 4 rows is a fact about 4 rows, not the end of the start."""

    def seconds(network: str, rows: int) -> float:
        if network == "unet" and rows == 4:
            raise MemoryError("out of memory")
        return 1.0

    profile, _ = measured(seconds)
    assert sorted(profile.seconds["unet"][64]) == [1, 2]


def test_a_network_that_cannot_run_at_all_stops_the_start() -> None:
    """Guards against a server that is ready and can serve nothing."""

    def broken(network: str, rows: int) -> float:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        measured(broken)


def test_a_profile_is_kept_for_the_next_start(tmp_path: Path) -> None:
    """Guards restarts: the second start runs no network."""
    first, second = FakeEngines(), FakeEngines()
    kept = load_or_measure(fake_bundle(), engine_set(first), Settings(), tmp_path)
    assert first.calls
    assert load_or_measure(fake_bundle(), engine_set(second), Settings(), tmp_path) == kept
    assert not second.calls
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize("change", ["bundle", "threads", "device", "version"])
def test_a_profile_of_something_else_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Guards against caps of another model, engine or machine."""
    load_or_measure(fake_bundle(), engine_set(FakeEngines()), Settings(), tmp_path)
    bundle, settings = fake_bundle(), Settings()
    if change == "bundle":
        files = {**bundle.files, "unet.onnx": type(bundle.files["unet.onnx"])("1" * 64, 0)}
        bundle = type(bundle)(**{**vars(bundle), "files": files})
    elif change == "threads":
        settings = Settings(threads=1)
    else:
        monkeypatch.setattr(profiles, "device" if change == "device" else "versions", lambda: {"other": "1.0"})
    engines = FakeEngines()
    load_or_measure(bundle, engine_set(engines), settings, tmp_path)
    assert engines.calls


@pytest.mark.parametrize("content", ["", "{}", '{"seconds": 3}', '{"seconds": {"unet": {"x": {}}}}', "\0"])
def test_a_spoilt_profile_is_measured_again(tmp_path: Path, content: str) -> None:
    """Guards against a half-written file that stops every start after it."""
    load_or_measure(fake_bundle(), engine_set(FakeEngines()), Settings(), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    engines = FakeEngines()
    load_or_measure(fake_bundle(), engine_set(engines), Settings(), tmp_path)
    assert engines.calls
    assert json.loads(path.read_text())["seconds"]["unet"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """Guards containers with a read-only file system."""
    (tmp_path / "file").write_text("")
    assert load_or_measure(fake_bundle(), engine_set(FakeEngines()), Settings(), tmp_path / "file" / "profiles").seconds


def test_the_profiling_inputs_are_of_the_networks_own_types() -> None:
    """Guards token ids, which are integers, and networks with inputs of their own."""
    _, engines = measured(lambda network, rows: 1.0)
    for network, inputs in engines.calls:
        for name, spec in fake_bundle().networks[network].inputs.items():
            assert inputs[name].dtype == np.dtype(spec.dtype)
            assert inputs[name].ndim == len(spec.shape)
