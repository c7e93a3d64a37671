"""The SDK and its command line against a real server, over both transports; held against raw calls."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from e2e.conftest import Serve
from e2e.jobs import FEW, LONG, hole, inpaint, long_job, photo, text_to_image
from e2e.server import Server, free_ports
from e2e.wire import infer_binary, stream_grpc
from gesso_client import (
    AsyncClient,
    Cancelled,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Image,
    InvalidRequest,
    NotFound,
    Preview,
    Progress,
    Unavailable,
    Unsupported,
)

pytestmark = pytest.mark.e2e

PROMPT = "a cat on a sofa"  # of jobs.inpaint
ORIENTATION = 0x0112  # the EXIF tag


def url_of(server: Server, transport: str) -> str:
    return server.grpc if transport == "grpc" else f"http://{server.http}"


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: Server) -> str:
    return url_of(server, request.param)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as made:
        yield made


@pytest.fixture(scope="module")
def expected(server: Server) -> np.ndarray[Any, Any]:
    """What a raw call answers."""
    return infer_binary(server.http, inpaint()).image


def test_inpaint_is_the_raw_call(client: Client, expected: np.ndarray[Any, Any]) -> None:
    result = client.inpaint(photo(), hole(), PROMPT, **FEW)
    np.testing.assert_array_equal(np.asarray(result.image), expected)
    assert result.seed == 7
    assert result.report["changed_outside_mask"] == 0
    assert result.report["parameters"]["scheduler"] == "ddim"


def test_the_priority_arrives_on_every_way(url: str, server: Server) -> None:
    """Guards `gesso_priority` over gRPC, HTTP infer (through inpaint_once) and generate_stream."""
    with Client(url) as client:
        for priority in ("interactive", "background"):
            assert client.inpaint(photo(), hole(), PROMPT, priority=priority, **FEW).report["priority"] == priority
            followed = list(client.stream(photo(), hole(), PROMPT, priority=priority, **FEW))
            assert followed[-1].report["priority"] == priority
        assert client.inpaint(photo(), hole(), PROMPT, **FEW).report["priority"] == "normal"


def test_generate_and_transform(client: Client, server: Server) -> None:
    generated = client.generate("a cat", height=64, width=64, guidance_scale=1.0, **FEW)
    np.testing.assert_array_equal(np.asarray(generated.image), infer_binary(server.http, text_to_image()).image)
    transformed = client.transform(photo(), PROMPT, strength=0.5, **FEW)
    raw = {name: tensor for name, tensor in inpaint(strength=0.5).items() if name != "mask_image"}
    np.testing.assert_array_equal(np.asarray(transformed.image), infer_binary(server.http, raw).image)


def test_stream_yields_typed_events(server: Server, expected: np.ndarray[Any, Any]) -> None:
    with Client(server.grpc) as client:
        events = list(client.stream(photo(), hole(), PROMPT, preview_every=2, **FEW))
    assert [type(event) for event in events] == [Progress, Progress, Preview, Progress, Progress, Image]
    assert [event.step for event in events[:-1]] == [1, 2, 2, 3, 4]
    assert events[2].image.size == (72, 64)
    np.testing.assert_array_equal(np.asarray(events[-1].image), expected)


def test_stream_over_http_has_progress_and_no_previews(server: Server, expected: np.ndarray[Any, Any]) -> None:
    with Client(f"http://{server.http}") as client:
        events = list(client.stream(photo(), hole(), PROMPT, **FEW))
        assert [type(event) for event in events] == [Progress] * 4 + [Image]
        np.testing.assert_array_equal(np.asarray(events[-1].image), expected)
        with pytest.raises(Unsupported) as refused:
            list(client.stream(photo(), hole(), PROMPT, preview_every=2, **FEW))
        assert refused.value.field == "preview_every"


def test_submit_follows_and_cancels(client: Client, server: Server) -> None:
    job = client.submit(photo(256, 256), hole(256, 256), PROMPT, **LONG)
    with pytest.raises(TimeoutError):
        job.result(timeout=0.01)
    server.until(lambda: job.progress is not None)
    assert not job.done()
    cancelled = server.metric("gesso_requests_total", outcome="cancelled")
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(timeout=30)
    server.until(lambda: server.metric("gesso_requests_total", outcome="cancelled") == cancelled + 1)

    finished = client.submit(photo(), hole(), PROMPT, **FEW)
    assert finished.result(timeout=60).seed == 7
    assert finished.progress is not None
    assert finished.progress.step == finished.progress.num_steps == 4


def test_closing_a_stream_frees_its_rows(client: Client, server: Server) -> None:
    cancelled = server.metric("gesso_requests_total", outcome="cancelled")
    events = client.stream(photo(256, 256), hole(256, 256), PROMPT, **LONG)
    next(events)
    events.close()
    server.until(lambda: server.metric("gesso_requests_total", outcome="cancelled") == cancelled + 1)


def test_several_images_in_order(client: Client, expected: np.ndarray[Any, Any]) -> None:
    result = client.inpaint(photo(), hole(), PROMPT, num_images_per_prompt=3, **FEW)
    assert [picture.seed for picture in result.pictures] == [7, 8, 9]
    assert len({image.tobytes() for image in result.images}) == 3
    np.testing.assert_array_equal(np.asarray(result.image), expected)


def test_models_tell_their_bounds(client: Client) -> None:
    (info,) = client.models()
    assert info.name == "inpaint"
    assert info.native_inpainting
    assert info.parameters["num_inference_steps"].maximum == 200
    assert client.info() == info


def test_many_threads_share_one_client(client: Client, server: Server) -> None:
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(client.inpaint, photo(), hole(), PROMPT, **{**FEW, "seed": n}) for n in range(32)]
        results = [call.result(60) for call in calls]
    assert [result.seed for result in results] == list(range(32))
    for seed in (0, 13, 31):
        np.testing.assert_array_equal(
            np.asarray(results[seed].image), infer_binary(server.http, inpaint(seed=seed)).image
        )


def test_asyncio_gives_the_same(url: str, expected: np.ndarray[Any, Any], server: Server) -> None:
    cancelled = server.metric("gesso_requests_total", outcome="cancelled")

    async def main() -> None:
        async with AsyncClient(url) as client:
            results = await asyncio.gather(*(client.inpaint(photo(), hole(), PROMPT, **FEW) for _ in range(8)))
            for result in results:
                np.testing.assert_array_equal(np.asarray(result.image), expected)
            events = [event async for event in client.stream(photo(), hole(), PROMPT, **FEW)]
            assert [type(event) for event in events] == [Progress] * 4 + [Image]
            job = await client.submit(photo(256, 256), hole(256, 256), PROMPT, **LONG)
            async for _ in job.events():
                break
            job.cancel()
            with pytest.raises(Cancelled):
                await job.result(timeout=30)

    asyncio.run(main())
    server.until(lambda: server.metric("gesso_requests_total", outcome="cancelled") == cancelled + 1)


def test_errors_are_typed_and_name_the_field(client: Client) -> None:
    with pytest.raises(InvalidRequest) as steps:
        client.inpaint(photo(), hole(), PROMPT, num_inference_steps=1000)
    with pytest.raises(NotFound) as scheduler:
        client.inpaint(photo(), hole(), PROMPT, scheduler="warp")
    with pytest.raises(InvalidRequest) as empty:  # only the server looks
        client.inpaint(photo(), hole() * 0, PROMPT)
    with pytest.raises(InvalidRequest) as other_size:
        client.inpaint(photo(), hole(32, 32), PROMPT)
    with pytest.raises(InvalidRequest) as no_step:
        client.inpaint(photo(), hole(), PROMPT, num_inference_steps=2, strength=0.1)
    found = [caught.value.field for caught in (steps, scheduler, empty, other_size, no_step)]
    assert found == ["num_inference_steps", "scheduler", "mask_image", "mask_image", "strength"]
    with pytest.raises(NotFound):
        client.info("outpaint")


def test_a_deadline_ends_the_request(client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.inpaint(photo(256, 256), hole(256, 256), PROMPT, deadline=0.5, **LONG)
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_full_server_is_tried_again_until_it_has_room(serve: Serve, tiny_bundle: Path, transport: str) -> None:
    with serve(tiny_bundle, "--max-queue=1", "--drain-seconds=3") as server:
        url = url_of(server, transport)
        running = stream_grpc(server.grpc, long_job())
        next(running)
        with Client(url, retries=0) as impatient, pytest.raises(Unavailable, match="queue is full"):
            impatient.generate("a cat", height=64, width=64, **FEW)
        with Client(url, retries=30) as patient, ThreadPoolExecutor(1) as pool:
            call = pool.submit(patient.generate, "a cat", height=64, width=64, **FEW)
            server.until(lambda: server.metric("gesso_requests_total", outcome="unavailable") >= 3)
            running.close()
            assert call.result(60).seed == 7


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_nobody_there_is_a_connection_error(scheme: str) -> None:
    with Client(f"{scheme}127.0.0.1:{free_ports(1)[0]}") as client, pytest.raises(ConnectionFailed):
        client.generate("a cat")


def test_the_other_ports_of_a_server_are_told_apart(server: Server) -> None:
    """Of the HTTP port given as gRPC's, "Socket closed" was all that was said."""
    wrong = {server.http: "does not speak gRPC", server.metrics: "does not speak gRPC"}
    wrong |= {f"http://{server.grpc}": "does not speak HTTP", f"http://{server.metrics}": "is no gesso server"}
    for url, words in wrong.items():
        with Client(url) as client, pytest.raises(ConnectionFailed, match=f"what listens at .* {words}"):
            client.info()


def test_a_photograph_on_its_side_is_stood_up(client: Client, expected: np.ndarray[Any, Any], tmp_path: Path) -> None:
    """A phone stores the picture as the sensor sees it and says in EXIF how to turn it."""
    exif = PILImage.Exif()
    exif[ORIENTATION] = 6  # turn by 90 degrees clockwise to view
    PILImage.fromarray(np.ascontiguousarray(np.rot90(photo()))).save(tmp_path / "phone.png", exif=exif)
    result = client.inpaint(tmp_path / "phone.png", hole(), PROMPT, **FEW)
    assert result.image.size == (72, 64)
    np.testing.assert_array_equal(np.asarray(result.image), expected)


@pytest.mark.parametrize("alpha_means", ["repaint", "keep"])
def test_the_mask_in_the_alpha(client: Client, expected: np.ndarray[Any, Any], alpha_means: str) -> None:
    alpha = hole() if alpha_means == "repaint" else 255 - hole()
    picture = np.dstack([photo(), alpha])
    result = client.inpaint(picture, None, PROMPT, alpha_means=alpha_means, **FEW)
    np.testing.assert_array_equal(np.asarray(result.image), expected)


def test_a_mask_of_another_size_is_fitted_when_told_to(client: Client) -> None:
    mask = np.zeros((32, 36), np.uint8)
    mask[8:24, 9:27] = 255
    result = client.inpaint(photo(), mask, PROMPT, fit_mask=True, **FEW)
    painted = np.asarray(result.image)
    np.testing.assert_array_equal(painted[:12], photo()[:12])
    assert (painted[20:44, 22:50] != photo()[20:44, 22:50]).any(axis=2).mean() > 0.9


def gesso(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("gesso"), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """photo.png and mask.png, as a user has them."""
    PILImage.fromarray(photo()).save(tmp_path / "photo.png")
    PILImage.fromarray(hole()).save(tmp_path / "mask.png")
    return tmp_path


FLAGS = ("--prompt", PROMPT, "--steps", 4, "--scheduler", "ddim", "--seed", 7)


def test_the_command_writes_the_picture(url: str, files: Path, expected: np.ndarray[Any, Any]) -> None:
    out = files / "out.png"
    done = gesso("inpaint", files / "photo.png", "--mask", files / "mask.png", *FLAGS, "-o", out, "--url", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}  seed 7\n"
    np.testing.assert_array_equal(np.asarray(PILImage.open(out)), expected)


def test_the_command_writes_previews(server: Server, files: Path) -> None:
    done = gesso(
        "inpaint", files / "photo.png", "--mask", files / "mask.png", *FLAGS, "-o", files / "out.png",
        "--url", server.grpc, "--preview-dir", files / "previews", "--preview-every", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    previews = sorted((files / "previews").iterdir())
    assert [preview.name for preview in previews][-1] == "out-0-0003.png"  # earlier ones may be dropped
    assert len(previews) <= 3
    with PILImage.open(previews[0]) as preview:
        assert preview.size == (72, 64)


def test_the_command_fails_in_one_line(url: str, files: Path) -> None:
    for wrong, code in ((("--scheduler", "warp"), 2), (("--steps", 1000), 2), (("--deadline", 0.001), 1)):
        done = gesso(
            "inpaint", files / "photo.png", "--mask", files / "mask.png", *FLAGS, *wrong, "-o", files / "out.png",
            "--url", url,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        *progress, error = done.stderr.splitlines()
        assert error.startswith("gesso: ")
        assert all(line.startswith("step ") for line in progress)  # a deadline may pass while it runs
        assert not (files / "out.png").exists()


def test_an_interrupted_command_cancels_its_request(server: Server, files: Path) -> None:
    PILImage.fromarray(photo(256, 256)).save(files / "photo.png")
    PILImage.fromarray(hole(256, 256)).save(files / "mask.png")
    cancelled = server.metric("gesso_requests_total", outcome="cancelled")
    command = subprocess.Popen(
        [
            Path(sys.executable).with_name("gesso"), "inpaint", files / "photo.png", "--mask", files / "mask.png",
            "--prompt", PROMPT, "--steps", "200", "-o", files / "out.png", "--url", server.grpc,
        ],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest-xdist's workers ignore it
    )  # fmt: skip
    try:
        server.until(lambda: server.metric("gesso_active_rows") == 2, 30)
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=30)
        assert command.returncode == 130
    finally:
        command.kill()
        command.communicate()
    server.until(lambda: server.metric("gesso_requests_total", outcome="cancelled") == cancelled + 1)
    assert not (files / "out.png").exists()


def test_a_folder_of_photographs(url: str, files: Path, expected: np.ndarray[Any, Any]) -> None:
    """A bad one fails alone: exit code 3, and the others are there."""
    photos, masks, out = files / "photos", files / "masks", files / "out"
    photos.mkdir()
    masks.mkdir()
    for stem in ("a", "b", "c"):
        PILImage.fromarray(photo()).save(photos / f"{stem}.png")
        PILImage.fromarray(hole()).save(masks / f"{stem}.png")
    (photos / "b.png").write_bytes(b"no picture")
    done = gesso("inpaint", photos, "--masks", masks, *FLAGS, "-o", out, "--url", url)
    assert done.returncode == 3, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]
    assert len(done.stderr.splitlines()) == 1
    assert "b.png" in done.stderr
    for path in out.iterdir():
        np.testing.assert_array_equal(np.asarray(PILImage.open(path)), expected)


def test_the_other_commands(url: str, tmp_path: Path) -> None:
    listed = gesso("models", "--url", url)
    assert listed.returncode == 0
    assert listed.stdout.startswith("inpaint  (")
    assert "num_inference_steps" in listed.stdout
    out = tmp_path / "generated.png"
    made = gesso("generate", *FLAGS, "--height", 64, "--width", 80, "-o", out, "--url", url)
    assert made.returncode == 0, made.stderr
    with PILImage.open(out) as picture:
        assert picture.size == (80, 64)
