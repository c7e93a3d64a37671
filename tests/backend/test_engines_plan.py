"""A plan is used only where it belongs; every refusal says why."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from backend.engines_fakes import CAPABILITY, GPU, HEADER, TENSORRT, write_engine
from backend.fakes import write_bundle
from gesso_backend.engines.engine import EngineError
from gesso_backend.engines.tensorrt.plan import Machine, find
from gesso_backend.kinds import open_bundle
from gesso_backend.model.bundle import Bundle, FileSpec

HERE = Machine(GPU, CAPABILITY, TENSORRT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return open_bundle(folder)


def refusal(folder: Path, bundle: Bundle, machine: Machine = HERE) -> str:
    with pytest.raises(EngineError) as error:
        find(folder, bundle, "unet", machine)
    return str(error.value)


def test_an_engine_of_this_machine_is_found(folder: Path, bundle: Bundle) -> None:
    """Guards against refusing everything; others beside it do not matter."""
    write_engine(folder, bundle, gpu="NVIDIA L4")
    target = write_engine(folder, bundle)
    (folder / "engines" / ".half.1.partial").mkdir()
    plan = find(folder, bundle, "unet", HERE)
    assert (plan.path, plan.profiles) == (target / "unet.plan", ("any", "native"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "NVIDIA L4"}, "built on NVIDIA L4, this is NVIDIA H100 80GB HBM3"),
        ({"tensorrt": "10.13.3.9"}, "built by TensorRT 10.13.3.9, this is 11.4.0.106"),
        ({"compute_capability": "8.9"}, "built for compute capability 8.9, this is 9.0"),
        ({"source": {"unet.onnx": "1" * 64}}, "stale: unet.onnx is no longer what it was built from"),
        ({"bytes": 99}, "unet.plan is truncated or damaged: 32 bytes, expected 99"),
        ({"sha256": "1" * 64}, "unet.plan is damaged: its sha256 is not its spec's"),
        ({"plan": "other.plan"}, "it is of unet and other.plan"),
        ({"schema_version": 2}, "schema_version is 2, this version reads 1"),
    ],
)
def test_what_does_not_belong_here_is_refused_with_the_reason(
    folder: Path, bundle: Bundle, changes: dict[str, Any], reason: str
) -> None:
    """Guards against 'an engine reused because a file of that name exists', which others do."""
    target = write_engine(folder, bundle, **changes)
    assert refusal(folder, bundle).startswith(f"unet: no TensorRT engine fits: {target.name}: ")
    assert reason in refusal(folder, bundle)


def test_weights_that_changed_make_it_stale(folder: Path, bundle: Bundle) -> None:
    """Guards external data, where all the weights are: the graph's own hash may stay."""
    write_engine(folder, bundle)
    spec = FileSpec("2" * 64, 1)
    changed = dataclasses.replace(bundle, files={**bundle.files, "unet.onnx.data": spec})
    assert "stale: unet.onnx.data is no longer" in refusal(folder, changed)
    # A graph of another name beside it, say for the CPU, is none of its business.
    beside = dataclasses.replace(bundle, files={**bundle.files, "unet.cpu.onnx": spec})
    find(folder, beside, "unet", HERE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"short", "is no TensorRT plan: 5 bytes"),
        (b"\x7fELF" + bytes(40), "is no TensorRT plan: it begins with 0x464c457f, not 0x74727466"),
        (HEADER[:24] + bytes([10, 13, 3, 9]) + b"unet", "was written by TensorRT 10.13.3, its spec says 11.4.0.106"),
    ],
)
def test_a_plan_is_looked_into_before_tensorrt_gets_it(
    folder: Path, bundle: Bundle, content: bytes, reason: str
) -> None:
    """Guards the deserialiser, which crashes on what is no plan of its own."""
    target = write_engine(folder, bundle, bytes=len(content))
    (target / "unet.plan").write_bytes(content)
    assert reason in refusal(folder, bundle)


def test_a_truncated_plan_is_refused(folder: Path, bundle: Bundle) -> None:
    """Guards against a copy that broke off."""
    plan = write_engine(folder, bundle) / "unet.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    assert "truncated" in refusal(folder, bundle)
    plan.unlink()
    assert "unet.plan is missing" in refusal(folder, bundle)


def test_an_edited_spec_or_a_renamed_folder_is_refused(folder: Path, bundle: Bundle) -> None:
    """Guards the key: nobody makes an engine fit by writing another GPU's name into its spec."""
    target = write_engine(folder, bundle, gpu="NVIDIA L4")
    file = target / "unet.json"
    document = json.loads(file.read_text())
    document["spec"]["gpu"] = GPU
    file.write_text(json.dumps(document))
    assert "renamed, or edited" in refusal(folder, bundle)
    shutil.move(target, target.with_name("better-name"))
    assert "better-name: its folder is not named as its spec demands" in refusal(folder, bundle)
    document["spec"]["colour"] = "red"
    (folder / "engines" / "better-name" / "unet.json").write_text(json.dumps(document))
    assert "spec has other keys than this version knows: ['colour']" in refusal(folder, bundle)
    (folder / "engines" / "better-name" / "unet.json").write_text("{")
    assert "unet.json cannot be read" in refusal(folder, bundle)


def test_no_engine_at_all_says_how_to_build_one(folder: Path, bundle: Bundle) -> None:
    """Guards the first start after an export."""
    assert refusal(folder, bundle) == ("unet: no TensorRT engine was built for this bundle; see gesso-export engines")
