"""The model repository that gesso-serve writes: the committed files, and parameters that survive the text format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from backend.fakes import fake_bundle, write_bundle
from gesso_backend.errors import BundleError, ServeError
from gesso_backend.host import repository
from gesso_backend.model import manifest
from gesso_backend.settings import Settings

AWKWARD = [
    "plain",
    "two\nlines",
    'with "quotes"',
    "back\\slash \\n \\x41",
    "ünï — 画像",
    "tab\there",
    "it's {a} #path: 1",
]


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def parameters_of(folder: Path) -> dict[str, str]:
    return {key: value.string_value for key, value in config_of(folder).parameters.items()}


def settings_of(folder: Path) -> Settings:
    """As the model itself reads them."""
    parameters = {key: text for key, text in parameters_of(folder).items() if key != "gesso"}
    return Settings.of_model(parameters, folder / "1")


@pytest.mark.parametrize("name", AWKWARD)
def test_what_is_written_parses_and_says_where_the_bundle_is(tmp_path: Path, name: str) -> None:
    """Guards quotes, backslashes and letters beyond ASCII in a bundle's path, on the way through the text format."""
    folder = write_bundle(tmp_path / name)
    settings = Settings(loop="plain", max_rows=3)
    assert repository.write(tmp_path / "models", {"inpaint": folder}, settings) == ["inpaint", "inpaint_once"]
    assert settings_of(tmp_path / "models" / "inpaint") == Settings(
        bundle=str(tmp_path / "models" / "inpaint" / "1" / "bundle"),
        verified=manifest.seal(folder),
        loop="plain",
        max_rows=3,
    )
    assert (tmp_path / "models" / "inpaint" / "1" / "bundle").samefile(folder)
    parameters = parameters_of(tmp_path / "models" / "inpaint")
    assert json.loads(parameters.pop("gesso")) == json.loads(json.dumps(fake_bundle().describe(settings.limits)))
    assert parameters == {"loop": "plain", "max_rows": "3"}  # all that clients may read
    bounds = {"max_queue": "256", "max_image_pixels": str(settings.max_image_pixels), "max_input_mib": "2048"}
    assert parameters_of(tmp_path / "models" / "inpaint_once") == {"target": "inpaint", **bounds}
    repository.write(tmp_path / "small", {"inpaint": folder}, settings, waiting_mib=10)
    assert parameters_of(tmp_path / "small" / "inpaint_once")["max_input_mib"] == "10"


def test_the_limits_that_are_published_are_the_settings(tmp_path: Path) -> None:
    """Guards clients, who check them before they send: what an operator lowers is what they are told."""
    settings = Settings(max_image_pixels=5000, max_preview_mib=3)
    repository.write(tmp_path / "models", {"inpaint": write_bundle(tmp_path / "mine")}, settings)
    parameters = parameters_of(tmp_path / "models" / "inpaint")
    assert json.loads(parameters["gesso"])["limits"] == {
        "max_image_pixels": 5000, "max_request_bytes": 4 * 5000 + 2**20, "max_preview_bytes": 3 * 2**20
    }  # fmt: skip
    assert parameters["max_image_pixels"] == parameters_of(tmp_path / "models" / "inpaint_once")["max_image_pixels"]


def test_each_model_gets_a_folder_to_be_drained_through(tmp_path: Path) -> None:
    """Guards the names on which gesso-serve and its models agree, by path."""
    served = {name: write_bundle(tmp_path / name) for name in ("inpaint", "other")}
    repository.write(tmp_path / "models", served, Settings(), tmp_path / "control")
    for name in served:
        assert settings_of(tmp_path / "models" / name).control == str(tmp_path / "control" / name)
        assert (tmp_path / "control" / name).is_dir()


def test_a_relative_bundle_is_linked_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the stub, which runs in another folder."""
    write_bundle(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    repository.write(tmp_path / "models", {"inpaint": Path("here")}, Settings())
    assert os.readlink(tmp_path / "models" / "inpaint" / "1" / "bundle") == str((tmp_path / "here").resolve())


def test_models_are_the_committed_ones_and_those_are_left_alone(tmp_path: Path) -> None:
    """Guards against drift: what is served is what the contract tests read."""
    before = {path: path.read_bytes() for path in repository.COMMITTED.rglob("*.p*") if path.is_file()}
    assert len(before) >= 4
    repository.write(tmp_path / "models", {"inpaint": write_bundle(tmp_path / "b")}, Settings())
    assert {path: path.read_bytes() for path in before} == before
    for name in ("inpaint", "inpaint_once"):
        written, committed = tmp_path / "models" / name, repository.COMMITTED / name
        assert (written / "1" / "model.py").read_bytes() == (committed / "1" / "model.py").read_bytes()
        config = config_of(written)
        config.ClearField("parameters")
        assert config == config_of(committed)
        assert not list(written.rglob("__pycache__"))


def test_several_bundles_are_several_pairs_of_models(tmp_path: Path) -> None:
    """Guards --name: each shim has its own target, and takes as many requests."""
    served = {name: write_bundle(tmp_path / name) for name in ("inpaint", "portrait-2.1")}
    names = repository.write(tmp_path / "models", served, Settings(max_queue=7))
    assert names == ["inpaint", "inpaint_once", "portrait-2.1", "portrait-2.1_once"]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(names)
    shim = parameters_of(tmp_path / "models" / "portrait-2.1_once")
    assert (shim["target"], shim["max_queue"]) == ("portrait-2.1", "7")
    assert Path(settings_of(tmp_path / "models" / "portrait-2.1").bundle).samefile(tmp_path / "portrait-2.1")


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "two words", "inpaint_once", "ümlaut", "-flag"])
def test_a_name_that_is_no_model_name_is_refused(tmp_path: Path, name: str) -> None:
    """Guards the file system, URLs, and the twin's own name."""
    with pytest.raises(ServeError, match="--name"):
        repository.write(tmp_path / "models", {name: write_bundle(tmp_path / "b")}, Settings())
    assert not (tmp_path / "models").exists()


def test_a_damaged_bundle_is_found_before_anything_starts(tmp_path: Path) -> None:
    """Guards start-up: the operator reads it now, not in Triton's log."""
    folder = write_bundle(tmp_path / "b")
    (folder / "unet.onnx").unlink()
    with pytest.raises(BundleError, match=r"files\.unet\.onnx"):
        repository.write(tmp_path / "models", {"inpaint": folder}, Settings())
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", [*AWKWARD, os.fsdecode(b"caf\xe9")])
def test_all_that_the_model_is_told_is_ascii_and_no_path_is_in_its_config(tmp_path: Path, name: str) -> None:
    """Guards Triton's Python, which opens no other path (triton-inference-server/server#6086); and the config, which
    every client may read.
    """
    folder = write_bundle(tmp_path / name)
    repository.write(tmp_path / "models", {"inpaint": folder}, Settings(engine="triton"), tmp_path / "control")
    for config in (tmp_path / "models").glob("*/config.pbtxt"):
        assert str(tmp_path) not in config.read_text(encoding="utf-8")
        for beside in config.parent.glob("1/settings.json"):
            assert beside.read_bytes().isascii()
            assert (config.parent / "1" / json.loads(beside.read_text())["bundle"]).samefile(folder)
