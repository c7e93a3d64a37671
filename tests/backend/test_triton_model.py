"""The two Triton models, with a Triton Python API of a few lines: translation, errors, cancels, one final response."""

from __future__ import annotations

import importlib
import json
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from backend.fakes import WAIT_SECONDS, FakeEngines, Gate, hole, inputs, picture, serving, until
from backend.triton_api import FINAL, FakeError, FakeRequest, FakeResponse, FakeSender, FakeTensor
from gesso_backend.errors import RequestError
from gesso_backend.serving.events import Event


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of gesso_backend.triton, on the fake API. `answer` plays the target of inpaint_once."""
    api: Any = types.ModuleType("triton_python_backend_utils")

    class InferenceRequest:
        def __init__(self, **fields: Any) -> None:
            self.fields = fields

        def exec(self, decoupled: bool) -> Any:
            assert decoupled
            return api.answer(self.fields)

    api.Tensor, api.InferenceResponse, api.TritonError = FakeTensor, FakeResponse, FakeError
    api.MetricFamily = None
    api.InferenceRequest, api.TRITONSERVER_RESPONSE_COMPLETE_FINAL = InferenceRequest, FINAL
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", api)
    forget()
    modules = {
        name: importlib.import_module(f"gesso_backend.triton.{name}")
        for name in ("inpaint", "once", "channel", "secret")
    }
    monkeypatch.setattr(modules["once"], "RequestCount", FakeCount)
    for name in ("inpaint", "once"):
        monkeypatch.setattr(modules[name], "log_to_stderr", lambda model: None)
    yield types.SimpleNamespace(**modules, api=api)
    forget()


class FakeCount:
    def __init__(self, family: Any, model: str) -> None:
        self.outcomes: list[str] = []
        self.request = self.outcomes.append


def forget() -> None:
    """Have the modules imported anew, with whatever Triton's API is then."""
    for name in [name for name in sys.modules if name.startswith("gesso_backend.triton.")]:
        del sys.modules[name]


@pytest.fixture
def gate() -> Gate:
    """Holds the second denoising step."""
    return Gate("unet", nth=2)


@pytest.fixture
def model(triton: Any, gate: Gate) -> Iterator[Any]:
    """An InpaintModel over fake networks."""
    model = triton.inpaint.InpaintModel()
    with serving(FakeEngines(gate)) as service:
        model._service = service
        model._secret = "secret"
        yield model
        gate.open()


def inpaint() -> dict[str, Any]:
    return inputs(image=picture(32, 48), mask_image=hole(32, 48), seed=3)


# inpaint


def test_a_request_is_answered_with_tensors_of_the_wires_types(model: Any, gate: Gate) -> None:
    """Guards the translation: names, dtypes and shapes of every response, and one final flag."""
    request = FakeRequest(inpaint() | inputs(preview_every=2))
    gate.open()
    model.execute([request])
    responses = [response.arrays() for response in request.sender.wait()]
    assert [r["event"][0] for r in responses] == [
        b"progress",
        b"progress",
        b"preview",
        b"progress",
        b"image",
    ]
    for arrays in responses:
        assert {name: (array.dtype, array.shape) for name, array in arrays.items() if name != "image"} == {
            "event": (np.object_, (1,)), "report": (np.object_, (1,)), "seed": (np.int64, (1,)),
            "step": (np.int32, (1,)), "num_steps": (np.int32, (1,)), "index": (np.int32, (1,)),
        }  # fmt: skip
        size = (0, 0, 3) if arrays["event"][0] == b"progress" else (32, 48, 3)
        assert (arrays["image"].dtype, arrays["image"].shape) == (np.uint8, size)
    assert json.loads(responses[-1]["report"][0])["changed_outside_mask"] == 0


def test_the_requests_memory_is_not_kept(model: Any, gate: Gate) -> None:
    """Guards shared memory, which Triton takes back as soon as the request is released."""
    lent = inpaint()
    request, again = FakeRequest(lent), FakeRequest(inpaint())
    model.execute([request])
    gate.wait()
    lent["image"][:] = 0
    lent["mask_image"][:] = 255
    gate.open()
    model.execute([again])
    pictures = [sender.wait()[-1].arrays()["image"] for sender in (request.sender, again.sender)]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize(
    ("tensors", "message", "code"),
    [
        ({"steps": np.array([3], np.int32)}, "INVALID_ARG: steps: unknown input", FakeError.INVALID_ARG),
        ({"scheduler": np.array([b"x"], np.object_)}, "NOT_FOUND: scheduler: 'x' is not", FakeError.NOT_FOUND),
    ],
)
def test_a_refusal_has_its_words_and_tritons_code(model: Any, tensors: dict[str, Any], message: str, code: str) -> None:
    """Guards what any Triton client sees, ours or not."""
    request = FakeRequest(inputs() | tensors)
    model.execute([request])
    assert request.sender.error().startswith(message)
    assert request.sender.responses[0].error().code == code


@pytest.mark.parametrize("kind", RequestError.__subclasses__())
def test_every_code_is_a_code_of_tritons(triton: Any, kind: type[RequestError]) -> None:
    """Guards against an AttributeError in the place of the last reply."""
    assert triton.channel._triton_error(f"{kind.code}: text").code in set(vars(FakeError).values())
    assert triton.channel._triton_error("DEADLINE: text").code == FakeError.CANCELLED


WRONG_TIMEOUTS = ["soon", None, True, 1.5, -4, 2**64 - 4, 10**15 + 1, "9" * 10**5, "\u0663", [5], {"a": 5}, 1e9]
WRONG_PRIORITIES = [1.5, True, None, 3, ["normal"], {"normal": 1}, "", "Normal", "x" * 10**5]


@pytest.mark.parametrize("shim", [False, True], ids=["inpaint", "inpaint_once"])
@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("timeout", "timeout", value) for value in WRONG_TIMEOUTS]
    + [("gesso_priority", "priority", value) for value in WRONG_PRIORITIES],
)
def test_a_parameter_of_the_wrong_type_is_refused_by_name(
    model: Any, once: Any, shim: bool, name: str, field: str, value: Any
) -> None:
    """Guards both models alike: a double as the priority was INTERNAL, with a type's name of Python's, by way of
    `inpaint_once`, and so was a timeout below 0."""
    request = FakeRequest(inputs(), {name: value})
    (once(lambda fields: iter([])) if shim else model).execute([request])
    assert request.sender.error().startswith(f"INVALID_ARG: {field}: ")
    assert len(request.sender.error()) < 200


@pytest.mark.parametrize("parameters", [{"deadline": 1}, {"timeout": "soon"}, {"timeout": None}, {"x" * 10**5: 1}])
def test_a_parameter_that_is_unknown_or_wrong_is_refused_by_name(model: Any, parameters: dict[str, Any]) -> None:
    """Guards against options that are taken and ignored."""
    request = FakeRequest(inputs(), parameters)
    model.execute([request])
    assert request.sender.error().startswith(f"INVALID_ARG: {next(iter(parameters))[:60]}: ")


@pytest.mark.parametrize("sent", [{"timeout": 50_000}, {"parameters": {"timeout": 50_000}}])
def test_tritons_timeout_is_the_deadline_either_way(model: Any, gate: Gate, sent: dict[str, Any]) -> None:
    """Guards both ways it arrives: a request's own over gRPC, a parameter over generate_stream."""
    request = FakeRequest(inputs(), **sent)
    model.execute([request])
    gate.wait()
    until(lambda: all(job.cause is not None for job in model._service._admission.jobs))
    gate.open()
    assert request.sender.wait()[-1].error().message() == "DEADLINE: the request's time limit passed"


def test_the_priority_is_followed_and_a_wrong_one_refused(model: Any, gate: Gate) -> None:
    """Guards `gesso_priority`: what is asked for is what the report says, and a slip is not taken for normal."""
    background, urgent = (FakeRequest(inputs(), {"gesso_priority": name}) for name in ("background", "urgent"))
    gate.open()
    model.execute([background, urgent])
    message = "INVALID_ARG: priority: 'urgent' is not one of interactive, normal, background"
    assert urgent.sender.error() == message
    assert json.loads(background.sender.wait()[-1].arrays()["report"][0])["priority"] == "background"


def test_a_client_that_is_gone_is_noticed(model: Any, gate: Gate) -> None:
    """Guards cancellation over gRPC and a closed HTTP stream alike."""
    request = FakeRequest(inputs())
    model.execute([request])
    gate.wait()
    request.sender.gone = True
    until(lambda: all(job.cause is not None for job in model._service._admission.jobs))
    gate.open()
    assert request.sender.wait()[-1].error().code == FakeError.CANCELLED


def test_a_job_of_inpaint_once_is_cancelled_by_its_id_and_sent_only_the_image(model: Any, gate: Gate) -> None:
    """Guards the two parameters by which the shim speaks to its target."""
    cancelled, finished = (FakeRequest(inputs(), {"gesso_job": f"secret.{job}"}) for job in "ab")
    model.execute([cancelled, finished])
    gate.wait()
    cancel = FakeRequest(inputs(), {"gesso_cancel": "secret.a"})
    model.execute([cancel])
    assert cancel.sender.wait() == []
    gate.open()
    assert cancelled.sender.error().startswith("CANCELLED")
    (response,) = finished.sender.wait()
    assert response.arrays()["event"][0] == b"image"


@pytest.mark.parametrize("name", ["gesso_job", "gesso_cancel"])
@pytest.mark.parametrize("value", ["a", ".a", "secre.a", "secret", "a.secret", 3, True, "\ud800"])
def test_what_the_two_models_tell_each_other_nobody_else_can(model: Any, gate: Gate, name: str, value: Any) -> None:
    """Guards other people's jobs: whoever sent `gesso_cancel` ended any job whose id it knew, and `gesso_job` gave a
    job an id of one's own choice. Abuse of F10's row; the answer is that of any unknown parameter."""
    victim = FakeRequest(inputs(), {"gesso_job": "secret.a"})
    model.execute([victim])
    gate.wait()
    request = FakeRequest(inputs(), {name: value})
    model.execute([request])
    if value != "secret":
        assert request.sender.error() == f"INVALID_ARG: {name}: unknown parameter"
    gate.open()
    assert not victim.sender.wait()[-1].has_error()


def test_a_full_queue_is_said_before_a_picture_is_read(triton: Any, gate: Gate) -> None:
    """Guards the refusal under load (F10: 0.23 s for a picture that was copied first)."""

    class Unread(FakeRequest):
        def inputs(self) -> list[FakeTensor]:
            raise AssertionError("it was read")

    model = triton.inpaint.InpaintModel()
    with serving(FakeEngines(gate), settings={"max_queue": 1}) as service:
        model._service = service
        first, second = FakeRequest(inputs()), Unread({})
        model.execute([first])
        model.execute([second])
        assert second.sender.error() == "UNAVAILABLE: the queue is full (1 requests)"
        gate.open()
        assert not first.sender.wait()[-1].has_error()


@pytest.mark.parametrize("shim", [False, True], ids=["inpaint", "inpaint_once"])
@pytest.mark.parametrize("name", ["image", "mask_image"])
def test_a_picture_above_the_bound_is_refused_by_name_before_it_is_copied(
    triton: Any, once: Any, shim: bool, name: str
) -> None:
    """Guards the published `max_image_pixels`, which was enforced nowhere."""

    class Lent(FakeTensor):
        def as_numpy(self) -> Any:
            return super().as_numpy().view(Uncopied)

    class Uncopied(np.ndarray):  # type: ignore[type-arg]
        def copy(self, order: Any = "C") -> Any:
            raise AssertionError("it was copied")

    request = FakeRequest({})
    request.inputs = lambda: [Lent(name, np.zeros((9, 11, 3)[: 3 if name == "image" else 2], np.uint8))]  # type: ignore[method-assign]
    with serving(settings={"max_image_pixels": 98}) as service:
        if shim:
            model = once(lambda fields: pytest.fail("it was passed on"), {"max_image_pixels": "98"})
        else:
            model = triton.inpaint.InpaintModel()
            model._service = service
        model.execute([request])
        assert request.sender.error() == f"INVALID_ARG: {name}: 99 pixels is above the maximum 98"


def test_an_error_fits_into_a_header(triton: Any) -> None:
    """Guards the reply of a request with an endless name in it: gRPC sends a message in its headers, and in the place
    of one above 16 KiB an error of its own."""
    assert len(triton.channel._triton_error("INVALID_ARG: " + "x" * 10**6).message()) <= 1000


def test_one_bad_request_of_a_call_does_not_touch_the_others(model: Any, gate: Gate) -> None:
    """Guards execute's loop: an exception there would lose every request of the call."""

    class Broken(FakeRequest):
        def inputs(self) -> list[FakeTensor]:
            raise RuntimeError("tensor in GPU memory")

    gate.open()
    broken, good = Broken({}), FakeRequest(inputs())
    model.execute([broken, good])
    assert broken.sender.error() == "INTERNAL: RuntimeError: the server's log says why"
    assert not good.sender.wait()[-1].has_error()


def test_readiness_is_the_services_health(model: Any) -> None:
    """Guards newer Tritons, which ask."""
    assert model.is_ready()
    model._service._watch._dead = True
    assert not model.is_ready()
    model._service._watch._dead = False


def test_a_channel_sends_one_final_response_whatever_is_asked_of_it(triton: Any) -> None:
    """Guards against an abort of the whole stub: Triton's sender does not forgive a second final."""
    sender = FakeSender()
    channel = triton.channel.TritonChannel(sender)
    channel.send(Event("progress", 1, 2, 0, 7))
    channel.close(None)
    channel.close(RequestError("late"))
    channel.send(Event("progress", 2, 2, 0, 7))
    assert channel.cancelled() is False
    assert len(sender.wait()) == 1


# inpaint_once


@pytest.fixture
def once(triton: Any) -> Iterator[Callable[..., Any]]:
    """Makes an InpaintOnceModel whose target answers as given."""
    made: list[Any] = []

    def make(answer: Callable[[dict[str, Any]], Any], parameters: dict[str, str] | None = None) -> Any:
        triton.api.answer = answer
        model = triton.once.InpaintOnceModel()
        config = {"parameters": {key: {"string_value": value} for key, value in (parameters or {}).items()}}
        model.initialize({"model_name": "inpaint_once", "model_config": json.dumps(config)})
        made.append(model)
        return model

    yield make
    for model in made:
        model.finalize()


def image_response() -> FakeResponse:
    return FakeResponse([FakeTensor("event", np.array([b"image"], np.object_)), FakeTensor("seed", np.array([3]))])


def test_the_shim_forwards_everything_and_answers_with_the_image(once: Any, triton: Any) -> None:
    """Guards the one response: the image's, once, though the target's stream ends with an empty one."""
    asked: list[dict[str, Any]] = []

    def answer(fields: dict[str, Any]) -> Any:
        asked.append(fields)
        return iter([image_response(), FakeResponse()])

    request = FakeRequest(inpaint(), {"gesso_priority": "interactive"}, timeout=2_000_000)
    once(answer, {"target": "portrait"}).execute([request])
    (response,) = request.sender.wait()
    assert response.arrays()["seed"].tolist() == [3]
    (fields,) = asked
    assert fields["model_name"] == "portrait"
    assert {tensor.name() for tensor in fields["inputs"]} == set(inpaint())
    assert fields["requested_output_names"] == ["event", "step", "num_steps", "index", "seed", "image", "report"]
    assert fields["parameters"]["timeout"] == 2_000_000
    assert fields["parameters"]["gesso_priority"] == "interactive"
    secret, _, job = fields["parameters"]["gesso_job"].partition(".")
    assert secret == triton.secret.shared()
    assert job


def test_the_shims_errors_are_the_targets_words(once: Any) -> None:
    """Guards the field's name on this path too."""
    message = "NOT_FOUND: scheduler: 'x' is not one of ddim"
    request = FakeRequest(inputs())
    once(lambda fields: iter([FakeResponse(error=FakeError(message)), FakeResponse()])).execute([request])
    assert request.sender.error() == message
    assert request.sender.responses[0].error().code == FakeError.NOT_FOUND


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: iter([FakeResponse()]), "INTERNAL: inpaint ended without an image"),
        (lambda: iter([]), "INTERNAL: inpaint ended without an image"),
        (lambda: [][0], "INTERNAL: IndexError: the server's log says why"),
    ],
)
def test_a_target_that_gives_no_image_is_still_one_error(once: Any, answer: Any, message: str) -> None:
    """Guards the waiting client against a target that is gone or silent."""
    request = FakeRequest(inputs())
    once(lambda fields: answer()).execute([request])
    assert request.sender.error() == message


@pytest.mark.parametrize("parameters", [{"gesso_job": "x"}, {"gesso_cancel": "x"}, {"deadline": 2}])
def test_the_shim_takes_no_parameter_but_the_timeout_and_the_priority(once: Any, parameters: dict[str, Any]) -> None:
    """Guards other people's jobs: ids are the shim's own to give."""
    request = FakeRequest(inputs(), parameters)
    once(lambda fields: iter([])).execute([request])
    assert request.sender.error().startswith(f"INVALID_ARG: {next(iter(parameters))}: unknown parameter")


def test_the_shim_refuses_what_its_target_has_no_room_for(once: Any) -> None:
    """Guards the refusal under load: by way of the target it took a copy of the picture, and 0.23 s (F10)."""
    release = threading.Event()

    def answer(fields: dict[str, Any]) -> Any:
        assert release.wait(WAIT_SECONDS)
        return iter([image_response(), FakeResponse()])

    model = once(answer, {"max_queue": "2"})
    first, second, third = (FakeRequest(inputs()) for _ in range(3))
    model.execute([first, second, third])
    assert third.sender.error() == "UNAVAILABLE: the queue is full (2 requests)"
    assert model._count.outcomes == ["unavailable"]
    release.set()
    assert [request.sender.wait()[-1].has_error() for request in (first, second)] == [False, False]
    until(lambda: not model._waiting)
    model.execute([third := FakeRequest(inputs())])
    assert not third.sender.wait()[-1].has_error()


def test_several_images_need_the_streaming_model(once: Any) -> None:
    """Guards against losing all but the first."""
    request = FakeRequest(inputs(num_images_per_prompt=2))
    once(lambda fields: iter([])).execute([request])
    assert request.sender.error() == "INVALID_ARG: num_images_per_prompt: more than 1 needs the streaming model"


def test_a_cancel_is_told_until_it_lands(once: Any) -> None:
    """Guards a race once here: told a single time, a cancel that overtook its own request was lost, and the job ran to
    its end for nobody."""
    landed = threading.Event()
    cancels: list[str] = []
    jobs: list[str] = []

    def answer(fields: dict[str, Any]) -> Any:
        parameters = fields["parameters"]
        if "gesso_cancel" in parameters:
            cancels.append(parameters["gesso_cancel"])
            if len(cancels) == 3:  # the target did not know the job before
                landed.set()
            return iter([FakeResponse()])
        jobs.append(parameters["gesso_job"])
        assert landed.wait(WAIT_SECONDS)
        return iter([FakeResponse(error=FakeError("CANCELLED: the client cancelled"))])

    request = FakeRequest(inputs())
    request.sender.gone = True
    once(answer).execute([request])
    assert request.sender.error() == "CANCELLED: the client cancelled"
    assert set(cancels) == set(jobs)


def test_a_target_that_is_gone_does_not_end_the_watch(once: Any) -> None:
    """Guards the cancels that come after one that could not be delivered."""
    release = threading.Event()
    cancels: list[str] = []

    def answer(fields: dict[str, Any]) -> Any:
        if "gesso_cancel" in fields["parameters"]:
            cancels.append(fields["parameters"]["gesso_cancel"])
            raise RuntimeError("no such model")
        assert release.wait(WAIT_SECONDS)
        raise RuntimeError("no such model")

    request = FakeRequest(inputs())
    request.sender.gone = True
    once(answer).execute([request])
    until(lambda: len(cancels) >= 2)
    release.set()
    assert request.sender.error() == "INTERNAL: RuntimeError: the server's log says why"


def test_what_waits_in_the_shim_is_bounded(once: Any) -> None:
    """Guards shared memory, where pictures lie while they wait: what does not fit there is told to try again."""
    release = threading.Event()

    def answer(fields: dict[str, Any]) -> Any:
        assert release.wait(WAIT_SECONDS)
        return iter([image_response()])

    model = once(answer, {"max_input_mib": "1"})
    large = inputs(image=picture(512, 512), mask_image=hole(512, 512))  # exactly 1 MiB, and a prompt
    first, second, third = (FakeRequest(large) for _ in range(3))
    model.execute([first, second])
    assert second.sender.error() == "UNAVAILABLE: the queue is full (1 MiB of pictures)"
    release.set()
    assert not first.sender.wait()[-1].has_error()
    until(lambda: not model._sizes)
    model.execute([third])
    assert not third.sender.wait()[-1].has_error()


@pytest.mark.parametrize(
    "words", ["Failed to increase the shared memory pool size for key 'gesso_1_ab'", "failed: /tmp/x"]
)
def test_tritons_own_words_reach_no_client(once: Any, words: str) -> None:
    """Guards the chain of CVE-2025-23319: an error that names shared memory lets others read the pictures in it."""
    request = FakeRequest(inputs())
    once(lambda fields: iter([FakeResponse(error=FakeError(words))])).execute([request])
    assert request.sender.error() == "INTERNAL: the server's log says why"
