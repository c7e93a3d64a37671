"""The GPU's engines on real networks: their values, their rows, and what they refuse."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.fakes import FakeClient, hole, inpaint
from backend.real import Real
from backend.test_engine import MOST_ROWS, rows_of
from gesso_backend.engines.engine import EngineError, EngineSet, load
from gesso_backend.kinds import open_bundle
from gesso_backend.serving.service import Service
from gesso_backend.settings import Settings

pytestmark = pytest.mark.gpu

SIZES = [(8, 8), (4, 16), (7, 9)]  # of latents
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}  # standard deviations of the expected output


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def loaded(request: pytest.FixtureRequest, cuda: None, real: Real) -> EngineSet:
    """All networks on the GPU, on either engine; smaller batches may run smaller where the bytes agree."""
    settings = {"providers": "cuda"} if request.param == "onnxruntime" else {"engine": "tensorrt"}
    if request.param == "tensorrt":
        request.getfixturevalue("built")
    return load(Settings(**settings, max_rows=8, max_vae_rows=8, batch_sizes="1,2,4"), real.folder, real.bundle)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("network", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_values_are_those_of_the_cpu(real: Real, loaded: EngineSet, network: str, size: tuple[int, int]) -> None:
    """Guards names, types, layouts and precision."""
    spec = real.bundle.networks[network]
    inputs = rows_of(network, spec, real.bundle.vae.factor, *size)
    found, expected = loaded.engine(network)(**inputs), real.engines[network](**inputs)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert np.abs(found[name] - array).max() / array.std() < TOLERANCE[spec.precision]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("network", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_a_row_alone_equals_the_row_in_every_batch(
    real: Real, loaded: EngineSet, network: str, size: tuple[int, int]
) -> None:
    """Guards the determinism contract where it is hardest: to the last bit, in every place, beside other neighbours."""
    inputs = rows_of(network, real.bundle.networks[network], real.bundle.vae.factor, *size)
    (output,) = real.bundle.networks[network].outputs
    alone = [
        loaded.engine(network)(**{n: a[row : row + 1] for n, a in inputs.items()})[output][0]
        for row in range(MOST_ROWS)
    ]
    assert not np.array_equal(alone[0], alone[1])
    for rows in range(2, MOST_ROWS + 1):
        for first in range(MOST_ROWS - rows + 1):
            part = {name: array[first : first + rows] for name, array in inputs.items()}
            batch = loaded.engine(network)(**part)[output]
            for row in range(rows):
                np.testing.assert_array_equal(batch[row], alone[first + row])


def test_the_same_twice_is_the_same(real: Real, loaded: EngineSet) -> None:
    """Guards against kernels that add in whatever order they finish; a graph's replay against its first run."""
    inputs = rows_of("unet", real.bundle.networks["unet"], real.bundle.vae.factor, 8, 8)
    first = loaded.engine("unet")(**inputs)["noise_pred"]
    for _ in range(10):
        np.testing.assert_array_equal(loaded.engine("unet")(**inputs)["noise_pred"], first)


def test_what_was_built_is_skipped(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards hours of building."""
    from gesso_export.tensorrt import command

    command.main([str(built), "--gpu", "auto", "--profile", "small=1x32x32,8x64x64,8x128x128"])
    assert capsys.readouterr().err.count("skip") == 4


@pytest.mark.parametrize("options", [["--refittable"], ["--weight-streaming"]])
def test_refittable_and_streaming_engines_are_built_and_run(built: Path, real: Real, options: list[str]) -> None:
    """Guards the builder's flags against each other, and the streaming budget."""
    from gesso_export.tensorrt import command

    words = ["--gpu", "auto", "--network", "unet", "--profile", "one=1x64x64,2x64x64,2x64x64"]
    command.main([str(built), *words, *options])  # which compares it with ONNX Runtime before it is there


def test_a_truncated_plan_is_refused_and_falls_back_where_it_may(
    built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the whole way, from the file to the engine that runs instead."""
    folder = Path(shutil.copytree(built, tmp_path / "bundle"))
    for plan in folder.glob("engines/*/unet.plan"):
        plan.write_bytes(plan.read_bytes()[:-1])
    bundle = open_bundle(folder)
    with pytest.raises(EngineError, match="truncated"):
        load(Settings(engine="tensorrt"), folder, bundle)
    with caplog.at_level(logging.WARNING):
        loaded = load(Settings(engine="tensorrt", engine_fallback="onnxruntime"), folder, bundle)
    assert loaded.names["unet"] == "onnxruntime (cuda)"
    assert loaded.names["vae_decoder"].startswith("tensorrt")
    assert "truncated" in caplog.text


def test_a_size_beyond_every_profile_runs_on_onnx_runtime(built: Path, real: Real) -> None:
    """Guards pictures larger than what was built for."""
    settings = Settings(engine="tensorrt", engine_fallback="onnxruntime")
    loaded = load(settings, built, real.bundle)
    inputs = rows_of("vae_decoder", real.bundle.networks["vae_decoder"], real.bundle.vae.factor, 20, 20)
    found, expected = loaded.engine("vae_decoder")(**inputs), real.engines["vae_decoder"](**inputs)
    assert np.abs(found["image"] - expected["image"]).max() / expected["image"].std() < TOLERANCE["fp16"]


@pytest.mark.parametrize("engine", [{"providers": "cuda"}, {"engine": "tensorrt"}], ids=str)
def test_a_picture_is_the_cpus_but_for_its_last_levels(
    cuda: None, real: Real, engine: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Guards the service on a GPU: the picture, and that pixels outside the mask are untouched."""
    if "engine" in engine:
        request.getfixturevalue("built")
    pictures = []
    for chosen in ({}, engine):
        settings = Settings(bundle=str(real.folder), profile_seconds=0, **chosen)
        service, client = Service.load(settings), FakeClient()
        service.submit(inpaint(), client)
        pictures.append(client.images()[0].astype(int))
        service.drain()
    painted = hole(32, 48) > 0
    np.testing.assert_array_equal(pictures[0][~painted], pictures[1][~painted])
    assert np.abs(pictures[0] - pictures[1])[painted].mean() < 2
