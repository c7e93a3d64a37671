"""Each network as a Triton model of its own: the pictures of the in-process engine, byte for byte."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from e2e.jobs import inpaint, text_to_image
from e2e.server import Server
from e2e.wire import Refused, infer_binary, infer_grpc

pytestmark = pytest.mark.e2e

NETWORKS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")


@pytest.fixture(scope="module")
def split(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose networks are models of their own, with Python processes of their own."""
    log = tmp_path_factory.mktemp("serve") / "gesso-serve.log"
    server = Server(log, tiny_bundle, "--engine=triton", "--max-rows=8", "--drain-seconds=3")
    server.models += [f"inpaint_{network}" for network in NETWORKS]
    try:
        yield server.wait_ready()
        server.stop()
    finally:
        server.kill()


def test_pictures_are_those_of_the_engine_in_process(split: Server, server: Server) -> None:
    """Guards the whole way round: names, types and shapes of every network, over BLS and back."""
    for job in (inpaint(), text_to_image(), inpaint(40, 56, guidance_scale=1.0, scheduler="euler", strength=0.9)):
        np.testing.assert_array_equal(infer_binary(split.http, job).image, infer_binary(server.http, job).image)


def test_requests_share_batches_and_keep_their_bytes(split: Server, server: Server) -> None:
    """Guards rows that get lost or mixed between the loop's process and the network's."""
    jobs = [inpaint(num_inference_steps=20, seed=number, prompt=f"{number}") for number in range(6)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        events = list(pool.map(lambda job: infer_grpc(split.grpc, job), jobs))
    assert max(event.report["rows_per_step"] for event in events) > 2
    for job, event in zip(jobs, events, strict=True):
        np.testing.assert_array_equal(event.image, infer_binary(server.http, job).image)


def test_a_network_can_be_asked_alone(split: Server) -> None:
    """Guards what perf_analyzer needs: a model that says what it takes, and answers without the loop."""
    with urllib.request.urlopen(f"http://{split.http}/v2/models/inpaint_vae_decoder", timeout=10) as answer:
        described = json.load(answer)
    (port,) = described["inputs"]
    assert (port["name"], port["datatype"], [int(axis) for axis in port["shape"]]) == (
        "latents",
        "FP32",
        [-1, 4, -1, -1],
    )
    client = tritonclient.grpc.InferenceServerClient(split.grpc)
    latents = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)
    tensor = tritonclient.grpc.InferInput("latents", latents.shape, "FP32").set_data_from_numpy(latents)
    image = client.infer("inpaint_vae_decoder", [tensor]).as_numpy("image")
    assert image.shape == (2, 3, 64, 64)
    bad = tritonclient.grpc.InferInput("latents", [1, 5, 8, 8], "FP32")
    bad.set_data_from_numpy(np.zeros((1, 5, 8, 8), np.float32))
    with pytest.raises(InferenceServerException, match="latents"):
        client.infer("inpaint_vae_decoder", [bad])


def test_a_bad_request_is_refused_as_ever(split: Server) -> None:
    """Guards the errors of the service behind another engine."""
    with pytest.raises(Refused, match="INVALID_ARG: num_inference_steps"):
        infer_binary(split.http, inpaint(num_inference_steps=0))
