"""ONNX Runtime on the networks of real bundles: a row does not know its batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from backend.real import Real
from gesso_backend.engines.onnxruntime import OnnxRuntimeEngine, load
from gesso_backend.errors import BundleError
from gesso_backend.model.bundle import NetworkSpec
from gesso_backend.settings import Settings

MOST_ROWS = 8
# Latent sizes: square, wide, odd both ways and above a power of two, smaller than the UNet's reach, a single latent.
SIZES = [(8, 8), (8, 24), (17, 33), (7, 9), (1, 1)]


def rows_of(network: str, spec: NetworkSpec, factor: int, h: int, w: int) -> dict[str, npt.NDArray[Any]]:
    """Likely inputs for MOST_ROWS rows, each row its own."""
    rng = np.random.default_rng(h * 1000 + w)
    pixels = 1 if network == "unet" else factor  # the UNet calls its latents' axes height and width
    axes: dict[str, int] = {
        "batch": MOST_ROWS, "height": h * pixels, "width": w * pixels, "latent_height": h, "latent_width": w,
        "tokens": 154,
    }  # fmt: skip
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in spec.inputs.items():
        shape = [axes[axis] if isinstance(axis, str) else axis for axis in tensor.shape]
        if name == "input_ids":
            arrays[name] = rng.integers(0, 49408, shape)
        elif name == "clip_skip":
            arrays[name] = rng.integers(0, 2, shape)
        elif name == "timestep":
            arrays[name] = rng.uniform(0, 999, shape).astype(np.float32)
        else:
            arrays[name] = rng.standard_normal(shape, np.float32)
    return arrays


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("network", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_a_row_alone_equals_the_row_in_every_batch(real: Real, network: str, size: tuple[int, int]) -> None:
    """Guards the determinism contract at its root: kernels that pick another way to add for another batch size."""
    engine = real.engines[network]
    inputs = rows_of(network, real.bundle.networks[network], real.bundle.vae.factor, *size)
    alone = [engine(**{name: array[row : row + 1] for name, array in inputs.items()}) for row in range(MOST_ROWS)]
    (output,) = real.bundle.networks[network].outputs
    assert np.isfinite(alone[0][output]).all()
    assert not np.array_equal(alone[0][output], alone[1][output])  # else equality would prove nothing
    for rows in range(2, MOST_ROWS + 1):
        batch = engine(**{name: array[:rows] for name, array in inputs.items()})[output]
        worst = max(np.abs(batch[row] - alone[row][output][0]).max() for row in range(rows))
        assert worst == 0, f"{network} {size}: a row in a batch of {rows} is off by {worst}"


def test_engines_answer_what_the_bundle_declares(real: Real) -> None:
    """Guards against outputs of another name, type or channel count than the loop was promised."""
    for network, spec in real.bundle.networks.items():
        inputs = rows_of(network, spec, real.bundle.vae.factor, 4, 6)
        outputs = real.engines[network](**inputs)
        assert set(outputs) == set(spec.outputs)
        for name, tensor in spec.outputs.items():
            assert outputs[name].dtype == tensor.dtype
            assert outputs[name].shape[0] == MOST_ROWS
            assert all(
                isinstance(axis, str) or found == axis
                for axis, found in zip(tensor.shape, outputs[name].shape, strict=True)
            )


def test_a_truncated_network_is_a_bundle_error_that_names_it(plain: Real, tmp_path: Path) -> None:
    """Guards against a traceback of ONNX Runtime's where an operator needs the file's name."""
    for spec in plain.bundle.networks.values():
        shutil.copy(plain.folder / spec.file, tmp_path)
    whole = (tmp_path / "unet.onnx").read_bytes()
    (tmp_path / "unet.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match=r"unet\.onnx"):
        OnnxRuntimeEngine(tmp_path / "unet.onnx")


def test_a_missing_network_is_a_bundle_error_that_names_it(plain: Real, tmp_path: Path) -> None:
    """Guards against serving what is there and failing at the first request that needs the rest."""
    with pytest.raises(BundleError, match=r"text_encoder\.onnx"):
        load(Settings(), tmp_path, plain.bundle)
