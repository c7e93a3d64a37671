"""gesso-export verify and inspect on bundles that are whole and on bundles that are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Command = Callable[..., tuple[int, str]]


def rehash(bundle: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed."""
    content = json.loads((bundle / "bundle.json").read_text())
    raw = (bundle / name).read_bytes()
    content["files"][name] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (bundle / "bundle.json").write_text(json.dumps(content))


def test_a_fresh_bundle_verifies(bundle: Path, gesso_export: Command) -> None:
    code, output = gesso_export("verify", bundle)
    assert code == 0
    for network in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
        assert f"{network:13} verify" in output
    assert "when it was exported: diffusers' StableDiffusionInpaintPipeline paints the same, within 0.0003 " in output


@pytest.mark.parametrize(
    "name", ["unet.onnx", "unet.onnx.data", "vae_decoder.onnx.data", "tokenizer/tokenizer.json", "reference.npz"]
)
def test_one_changed_byte_is_found_and_the_file_named(copied: Path, name: str, gesso_export: Command) -> None:
    raw = bytearray((copied / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copied / name).write_bytes(raw)
    code, output = gesso_export("verify", copied)
    assert code == 1
    assert f"error: {name} is damaged" in output


def test_a_missing_file_and_a_cut_one_are_found(copied: Path, gesso_export: Command) -> None:
    data = copied / "text_encoder.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    code, output = gesso_export("verify", copied)
    assert (code, "text_encoder.onnx.data has" in output) == (1, True)
    data.unlink()
    code, output = gesso_export("verify", copied)
    assert (code, "text_encoder.onnx.data is missing" in output) == (1, True)


@pytest.mark.parametrize("network", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_wrong_values_are_found_even_when_the_hashes_agree(copied: Path, network: str, gesso_export: Command) -> None:
    """Hashes prove that a file is the one that was written, not that it was right."""
    name = f"{network}.onnx.data"
    raw = (copied / name).read_bytes()
    half = len(raw) // 8 * 4  # the file ends with masks, which are no floats
    weights = np.frombuffer(raw[:half], np.float32) * np.float32(1.01)
    (copied / name).write_bytes(weights.tobytes() + raw[half:])
    rehash(copied, name)
    code, output = gesso_export("verify", copied)
    assert code == 1
    assert f"{network}: " in output
    assert "standard deviations" in output


def test_a_graph_that_is_no_graph_is_an_error_not_a_traceback(copied: Path, gesso_export: Command) -> None:
    for name in ("text_encoder.onnx", "reference.npz"):
        (copied / name).write_bytes(b"junk")
        rehash(copied, name)
        code, output = gesso_export("verify", copied)
        assert code == 1
        assert "gesso-export: error: " in output
        code, output = gesso_export("inspect", copied)
        assert code == 1


def test_an_axis_that_is_not_the_promised_one_is_found(copied: Path, gesso_export: Command) -> None:
    content = json.loads((copied / "bundle.json").read_text())
    content["networks"]["unet"]["inputs"]["timestep"]["shape"] = [1]
    (copied / "bundle.json").write_text(json.dumps(content))
    code, output = gesso_export("verify", copied)
    assert code == 1
    assert "unet inputs are" in output


def test_a_directory_that_is_no_bundle(tmp_path: Path, gesso_export: Command) -> None:
    code, output = gesso_export("verify", tmp_path)
    assert code == 1
    assert "is not a bundle" in output


def test_inspect_tells_what_a_person_asks(bundle: Path, other: tuple[Path, Path], gesso_export: Command) -> None:
    code, output = gesso_export("inspect", bundle)
    assert code == 0
    for fact in ("native (9-channel UNet)", "256 px native", "77 tokens", "pndm (default)", "epsilon", "791,958"):
        assert fact in output
    code, output = gesso_export("inspect", other[1])
    assert code == 0
    for fact in ("by blending latents", "32 px native", "multiples of 2", "v_prediction"):
        assert fact in output
