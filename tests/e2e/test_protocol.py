"""The wire contract, spoken by clients that are not ours: every way in, and what comes out of each."""

from __future__ import annotations

import json
import queue
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from e2e.jobs import hole, inpaint, photo, text_to_image
from e2e.server import Server
from e2e.wire import (
    Event,
    Tensors,
    event_of,
    flat,
    generate,
    generate_stream,
    grpc_request,
    infer_binary,
    infer_grpc,
    infer_json,
    stream_grpc,
    stub,
    tensors,
)

pytestmark = pytest.mark.e2e


def with_size(inputs: Tensors) -> dict[str, Any]:
    """The body of a generate call; its lists are flat, so height and width give the picture its shape back."""
    height, width = inputs["image"].shape[:2]
    return flat({**inputs, **tensors(height=height, width=width)})


def shaped(event: Event, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return event.image.reshape(like.shape)


WAYS: dict[str, Callable[[Server, Tensors], Event]] = {
    "JSON": lambda server, inputs: infer_json(server.http, inputs),
    "binary HTTP": lambda server, inputs: infer_binary(server.http, inputs),
    "gRPC": lambda server, inputs: infer_grpc(server.grpc, inputs),
    "gRPC stream": lambda server, inputs: list(stream_grpc(server.grpc, inputs))[-1],
    "gRPC stream of inpaint_once": lambda server, inputs: list(stream_grpc(server.grpc, inputs, "inpaint_once"))[-1],
    "generate": lambda server, inputs: event_of(generate(server.http, with_size(inputs))),
    "generate_stream": lambda server, inputs: event_of(list(generate_stream(server.http, with_size(inputs)))[-1]),
}


@pytest.fixture(scope="module")
def reference(server: Server) -> Event:
    """What `inpaint` answers to the request that most of these tests send."""
    return list(stream_grpc(server.grpc, inpaint()))[-1]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_same_picture(server: Server, reference: Event, way: str) -> None:
    """The two models share one loop; a path that lost the seed, or swapped two axes, would show here."""
    event = WAYS[way](server, inpaint())
    assert event.event == "image"
    assert (event.step, event.num_steps, event.index, event.seed) == (4, 4, 0, 7)
    np.testing.assert_array_equal(shaped(event, photo()), reference.image)
    assert event.report["parameters"] == reference.report["parameters"]


@pytest.mark.parametrize("way", WAYS)
def test_lists_of_numbers_arrive_on_every_way(server: Server, way: str) -> None:
    """Guards own timesteps and sigmas over JSON, where Triton sees a list of numbers and nothing of its type."""
    own = inpaint(scheduler="euler")
    del own["num_inference_steps"]
    for steps in ({"timesteps": [900, 400, 30]}, {"sigmas": [12.5, 2.0, 0.25, 0.0]}):
        event = WAYS[way](server, {**own, **tensors(**steps)})
        assert event.num_steps == 3
        ((name, numbers),) = steps.items()
        assert event.report["parameters"][name] == numbers


def test_the_events_of_a_request_come_in_order(server: Server) -> None:
    events = list(stream_grpc(server.grpc, inpaint(num_inference_steps=7, preview_every=4)))
    assert [(event.event, event.step) for event in events] == [
        ("progress", 1),
        ("progress", 2),
        ("progress", 3),
        ("progress", 4),
        ("preview", 4),
        ("progress", 5),
        ("progress", 6),
        ("progress", 7),
        ("image", 7),
    ]
    assert {event.num_steps for event in events} == {7}
    assert {event.seed for event in events} == {7}
    assert {event.image.shape for event in events if event.event == "progress"} == {(0, 0, 3)}
    assert [bool(event.report) for event in events] == [False] * 8 + [True]


def test_a_preview_at_every_step_leaves_the_last_to_the_image(server: Server) -> None:
    events = list(stream_grpc(server.grpc, inpaint(preview_every=1)))
    steps = [event.step for event in events if event.event == "preview"]
    assert steps == sorted({*steps, 3} & {1, 2, 3})  # one that has a successor before it was sent is dropped


def test_the_stream_ends_with_an_empty_final_response(server: Server) -> None:
    """Clients that count responses need to be told which is the last."""
    request = grpc_request(text_to_image(), "inpaint", triton_enable_empty_final_response=True)
    request.id = "mine"
    with stub(server.grpc) as triton:
        responses = [message.infer_response for message in triton.ModelStreamInfer(iter([request]), timeout=60)]
    finals = [response.parameters["triton_final_response"].bool_param for response in responses]
    assert finals == [False] * 5 + [True]
    assert not responses[-1].outputs
    assert {response.id for response in responses} == {"mine"}


def test_previews_have_the_pictures_size_and_keep_what_the_mask_keeps(server: Server) -> None:
    image, mask = photo(61, 83), hole(61, 83)
    events = list(stream_grpc(server.grpc, inpaint(61, 83, preview_every=1)))
    pictures = [event.image for event in events if event.event != "progress"]
    assert 2 <= len(pictures) <= 4
    for picture in pictures:
        assert picture.shape == image.shape
        np.testing.assert_array_equal(picture[mask == 0], image[mask == 0])
        assert (picture[mask == 255] != image[mask == 255]).mean() > 0.5
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (9, 200), (427, 640)], ids=str)
def test_any_size_in_is_the_size_out(server: Server, size: tuple[int, int]) -> None:
    """427 x 640 is the size that peers turn into 424 x 640."""
    image, mask = photo(*size), np.zeros(size, np.uint8)
    mask[: max(1, size[0] // 2), : max(1, size[1] // 2)] = 255
    event = infer_binary(server.http, inpaint(*size, mask_image=mask, num_inference_steps=2))
    assert event.image.shape == (*size, 3)
    np.testing.assert_array_equal(event.image[mask == 0], image[mask == 0])
    assert event.report["changed_outside_mask"] == 0
    assert event.report["mask_coverage_pct"] == pytest.approx(100 * (mask > 0).mean(), abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (300, 20)], ids=str)
def test_flat_lists_get_their_shape_back(server: Server, size: tuple[int, int]) -> None:
    """A picture may be smaller than the smallest text-to-image picture; height and width are its shape here."""
    inputs = inpaint(*size, mask_image=np.full(size, 255, np.uint8))
    event = event_of(generate(server.http, with_size(inputs)))
    np.testing.assert_array_equal(event.image.reshape(*size, 3), infer_binary(server.http, inputs).image)


def test_a_seed_is_drawn_returned_and_repeats_the_picture(server: Server) -> None:
    request = text_to_image()
    del request["seed"]
    first, second = infer_grpc(server.grpc, request), infer_grpc(server.grpc, request)
    assert first.seed != second.seed
    assert not np.array_equal(first.image, second.image)
    again = infer_grpc(server.grpc, text_to_image(seed=first.seed))
    assert again.seed == first.seed == first.report["parameters"]["seed"]
    np.testing.assert_array_equal(again.image, first.image)


def test_seed_0_is_a_seed(server: Server) -> None:
    first, second = (infer_json(server.http, text_to_image(seed=0)) for _ in range(2))
    assert first.seed == second.seed == 0
    np.testing.assert_array_equal(first.image, second.image)


def test_each_of_several_images_is_the_one_of_its_seed(server: Server) -> None:
    """Image i of a request is the picture of seed + i; every image of a batch being the first was once a real bug."""
    events = list(stream_grpc(server.grpc, inpaint(num_images_per_prompt=3)))
    images = {event.index: event for event in events if event.event == "image"}
    assert sorted(images) == [0, 1, 2]
    for index, event in images.items():
        alone = infer_binary(server.http, inpaint(seed=7 + index))
        assert event.seed == event.report["parameters"]["seed"] == 7 + index
        np.testing.assert_array_equal(event.image, alone.image)
        steps = [other.step for other in events if other.event == "progress" and other.index == index]
        assert steps == [1, 2, 3, 4]


def test_the_tensors_present_choose_the_task(server: Server) -> None:
    full = inpaint()
    without_mask = {name: tensor for name, tensor in full.items() if name != "mask_image"}
    found = [infer_binary(server.http, inputs) for inputs in (full, without_mask, text_to_image(width=80))]
    tasks = [event.report["parameters"]["task"] for event in found]
    assert tasks == ["inpaint", "image_to_image", "text_to_image"]
    assert [event.image.shape for event in found] == [(64, 72, 3), (64, 72, 3), (64, 80, 3)]
    assert found[1].report["parameters"]["strength"] == 0.8  # bundle.json: task_defaults


def test_the_report_says_what_was_done(server: Server) -> None:
    request = inpaint(prompt="cat " * 100, long_prompt=False, image=photo(seed=3))  # nothing of it is in a cache
    report = infer_grpc(server.grpc, request).report
    assert report["parameters"]["num_inference_steps"] == 4
    assert report["parameters"]["scheduler"] == "ddim"
    assert set(report["timings_ms"]) == {
        "prepare", "queue", "text_encoder", "vae_encoder", "unet", "vae_decoder", "composite",
    }  # fmt: skip
    assert all(milliseconds >= 0 for milliseconds in report["timings_ms"].values())
    assert report["total_ms"] >= report["timings_ms"]["unet"] > 0
    assert report["rows_per_step"] >= 2  # guidance: two rows a step
    assert len(report["warnings"]) == 1
    assert "cat cat" in report["warnings"][0]  # the text that was cut off


def test_a_stock_client_runs_two_requests_on_one_stream(server: Server) -> None:
    """tritonclient's own streaming client: responses of both requests come mixed, told apart by their ids."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    jobs = {"first": inpaint(), "second": inpaint(40, 48, seed=8)}
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for name, inputs in jobs.items():
            client.async_stream_infer("inpaint", _infer_inputs(inputs), request_id=name)
        images: dict[str, np.ndarray[Any, Any]] = {}
        while len(images) < 2:
            result, error = answers.get(timeout=60)
            assert error is None
            if result.as_numpy("event")[0] == b"image":
                images[result.get_response().id] = result.as_numpy("image")
        client.stop_stream()
    for name, inputs in jobs.items():
        np.testing.assert_array_equal(images[name], infer_grpc(server.grpc, inputs).image)


def test_a_client_may_ask_for_some_outputs(server: Server, reference: Event) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        wanted = [triton_grpc.InferRequestedOutput("image")]
        result = client.infer("inpaint_once", _infer_inputs(inpaint()), outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["image"]
    np.testing.assert_array_equal(result.as_numpy("image"), reference.image)


@pytest.mark.parametrize(("model", "decoupled"), [("inpaint", True), ("inpaint_once", False)])
def test_the_models_describe_themselves(server: Server, model: str, decoupled: bool) -> None:
    metadata, config = (_get(server, f"/v2/models/{model}{path}") for path in ("", "/config"))
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]}
    assert inputs["image"] == ("UINT8", [-1, -1, 3])
    assert inputs["mask_image"] == ("UINT8", [-1, -1])
    assert inputs["seed"] == ("INT64", [1])
    assert len(inputs) == 42
    assert [tensor["name"] for tensor in metadata["outputs"]] == [
        "event", "step", "num_steps", "index", "image", "seed", "report",
    ]  # fmt: skip
    assert config["max_batch_size"] == 0
    assert config["model_transaction_policy"]["decoupled"] is decoupled


def test_the_streaming_model_tells_its_defaults_and_bounds(server: Server) -> None:
    description = json.loads(_get(server, "/v2/models/inpaint/config")["parameters"]["gesso"]["string_value"])
    steps = description["parameters"]["num_inference_steps"]
    assert (steps["minimum"], steps["default"], steps["maximum"]) == (1, 50, 200)
    assert "ddim" in description["parameters"]["scheduler"]["choices"]


def _infer_inputs(inputs: Tensors) -> list[Any]:
    """The same tensors as tritonclient's objects."""
    made = []
    for tensor in grpc_request(inputs, "").inputs:
        made.append(triton_grpc.InferInput(tensor.name, list(tensor.shape), tensor.datatype))
        made[-1].set_data_from_numpy(inputs[tensor.name])
    return made


def _get(server: Server, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{server.http}{path}", timeout=30) as answer:
        return dict(json.loads(answer.read()))
