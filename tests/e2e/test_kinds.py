"""A second kind served beside diffusion by one real Triton, and found there by being installed."""

from __future__ import annotations

import sysconfig
import threading
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gesso_backend
from e2e import wire
from e2e.conftest import Serve
from e2e.jobs import hole, inpaint, photo
from e2e.server import Server
from kinds import filler

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def both(serve: Serve, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    bundle = filler.write_bundle(tmp_path_factory.mktemp("kinds") / "filler")
    python = environment(tmp_path_factory.mktemp("environment"), Path(filler.__file__).parent)
    with serve(tiny_bundle, "--max-vae-rows=4", names={"filler": bundle}, python=python) as server:
        yield server


def environment(folder: Path, *paths: Path) -> Path:
    """The Python of an environment that has all of this one's packages, and what lies in `paths` installed too.

    Triton's stub finds packages through the environment alone: PYTHONPATH does not reach it.
    """
    venv.create(folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    source = Path(gesso_backend.__file__).parents[1]
    lines = [source, sysconfig.get_path("purelib"), *paths]
    (site_packages / "gesso.pth").write_text("\n".join(map(str, lines)))
    return folder / "bin" / "python"


def fill(server: Server, seed: int) -> wire.Event:
    inputs = {"image": photo(48, 40, seed=seed), "mask_image": hole(48, 40)}
    return wire.infer_grpc(server.grpc, inputs, "filler_once")


def test_each_kind_answers_through_its_own_model(both: Server) -> None:
    """Guards the registry in the real stub's process, and a config that would want a prompt of everybody."""
    mask, original = hole(48, 40), photo(48, 40, seed=3)
    filled = fill(both, 3)
    assert (filled.image[mask == 0] == original[mask == 0]).all()
    assert np.abs(filled.image[mask == 255].astype(float) - original.mean(axis=(0, 1))).max() <= 1
    assert filled.report["engines"] == {"filler": "onnxruntime (cpu)"}
    assert wire.infer_grpc(both.grpc, inpaint(48, 40)).report["engines"].keys() == {
        "text_encoder", "unet", "vae_encoder", "vae_decoder",
    }  # fmt: skip


def test_many_at_once_get_what_each_gets_alone(both: Server) -> None:
    """Guards batching through the whole server: rows of four requests in a call, the bytes of each as alone."""
    alone = {seed: fill(both, seed).image.tobytes() for seed in range(8)}
    together: dict[int, bytes] = {}

    def ask(seed: int) -> None:
        together[seed] = fill(both, seed).image.tobytes()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_what_it_does_not_take_is_refused_by_name(both: Server) -> None:
    """Guards against diffusion's words taken and ignored."""
    inputs = {"image": photo(16, 16), "mask_image": hole(16, 16), **wire.tensors(prompt="a fox")}
    with pytest.raises(wire.Refused, match="prompt: this model does not take it"):
        wire.infer_grpc(both.grpc, inputs, "filler_once")
    with pytest.raises(wire.Refused, match="prompt: missing"):
        wire.infer_grpc(both.grpc, {"image": photo(16, 16), "mask_image": hole(16, 16)})


def test_a_stream_of_it_ends_in_its_picture(both: Server) -> None:
    """Guards the decoupled way: one image, no progress, one end."""
    inputs = {"image": photo(16, 16), "mask_image": hole(16, 16)}
    assert [event.event for event in wire.stream_grpc(both.grpc, inputs, "filler")] == ["image"]
