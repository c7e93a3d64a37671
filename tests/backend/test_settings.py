"""Settings come as strings from Triton's model parameters; each wrong one is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gesso_backend.errors import SettingsError
from gesso_backend.settings import RULES, Settings


def fails(**parameters: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_parameters(parameters)
    return str(caught.value)


def test_nothing_set_is_every_default() -> None:
    """Guards the committed config.pbtxt, which sets nothing."""
    assert Settings.from_parameters({}) == Settings()


def test_every_setting_can_be_set_and_comes_out_in_its_type() -> None:
    """Guards against a setting that only the default can have."""
    other = {name: list(rule.choices())[-1] for name, rule in RULES.items() if rule.choices}
    other |= {
        "bundle": "/b",
        "control": "/c",
        "verified": "ab",
        "providers": "cuda,cpu",
        "batch_sizes": "2,8",
        "network_gpus": "1",
    }
    numbers = {field.name: field.default + 3 for field in dataclasses.fields(Settings) if field.name not in other}
    chosen = Settings(**other, **numbers)
    parameters = {name: str(value) for name, value in dataclasses.asdict(chosen).items()}
    assert all(value != getattr(Settings, name) for name, value in dataclasses.asdict(chosen).items())
    assert Settings.from_parameters(parameters) == chosen


def test_an_unknown_setting_is_named_and_the_known_ones_listed() -> None:
    """Guards against a misspelt bound that is not there when the load comes."""
    message = fails(max_row="4")
    assert message.startswith("max_row: unknown setting; known are bundle, verified, loop, policy, max_rows")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("max_rows", "many", "max_rows: 'many' is not int"),
        ("max_rows", "2.5", "max_rows: '2.5' is not int"),
        ("stall_seconds", "", "stall_seconds: '' is not float"),
        ("loop", "fast", "loop: 'fast' is not one of batched, plain"),
        ("policy", "lifo", "policy: 'lifo' is not one of srpt, fifo, request-batches"),
        ("max_rows", "-1", "max_rows: -1 is below the minimum 0"),
        ("profile_seconds", "-1", "profile_seconds: -1.0 is below the minimum 0"),
        ("max_vae_rows", "-1", "max_vae_rows: -1 is below the minimum 0"),
        ("max_queue", "0", "max_queue: 0 is below the minimum 1"),
        ("max_input_mib", "0", "max_input_mib: 0 is below the minimum 1"),
        ("threads", "-1", "threads: -1 is below the minimum 0"),
        ("drain_seconds", "-0.5", "drain_seconds: -0.5 is below the minimum 0"),
        ("drain_seconds", "nan", "drain_seconds: nan is below the minimum 0"),
    ],
)
def test_a_bad_value_is_named(name: str, text: str, message: str) -> None:
    """Guards start-up: a wrong setting ends it with one line, not with a strange server."""
    assert fails(**{name: text}) == message


@pytest.mark.parametrize("text", ["0", "1.5", "nan"])
def test_a_stall_limit_that_an_idle_loop_would_break_is_refused(text: str) -> None:
    """Guards a setting once accepted: an idle loop shows that it lives once a second, and at 0 was dead at once."""
    assert fails(stall_seconds=text) == f"stall_seconds: {float(text)} is below the minimum 2"


def test_the_bundle_comes_from_the_parameter_or_else_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the order, and the message when nothing says where it is."""
    monkeypatch.setenv("GESSO_BUNDLE", "/from/environment")
    assert Settings(bundle="/given").bundle_path() == Path("/given")
    assert Settings().bundle_path() == Path("/from/environment")
    monkeypatch.delenv("GESSO_BUNDLE")
    with pytest.raises(SettingsError, match="GESSO_BUNDLE"):
        Settings().bundle_path()


@pytest.mark.parametrize(
    ("set_to", "on_gpu"),
    [
        ({}, False),
        ({"engine": "triton"}, False),
        ({"network_backend": "tensorrt"}, False),  # of an engine that does not run
        ({"engine": "tensorrt"}, True),
        ({"engine": "triton", "network_backend": "tensorrt"}, True),
        ({"providers": "cuda,cpu"}, True),
    ],
)
def test_what_runs_on_a_gpu_is_known(set_to: dict[str, str], on_gpu: bool) -> None:
    """Guards the GPU's metrics, which Triton shows only if told to."""
    assert Settings(**set_to).on_gpu is on_gpu
