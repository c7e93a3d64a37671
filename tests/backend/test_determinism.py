"""A request's bytes do not depend on its neighbours, nor on the loop that ran it: whole requests on real networks."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from backend.fakes import WAIT_SECONDS, Arrays, FakeClient, hole, inputs, picture, prepared, serving, until
from backend.real import Real

NEIGHBOURS = 7
SIZES = [(32, 48), (40, 40), (23, 57)]  # few, so that some share batches; one is no multiple of anything
PROMPTS = ["a red fox", "", "an empty street at night, oil on canvas", "snow"]


def random_request(rng: random.Random, real: Real) -> Arrays:
    """Any task, size, step count, sampler, guidance, strength, mask, prompt and seed."""
    height, width = rng.choice(SIZES)
    values: dict[str, Any] = {
        "prompt": rng.choice(PROMPTS),
        "num_inference_steps": rng.randint(2, 5),
        "guidance_scale": rng.choice([0.5, 1.0, 4.0, 7.5]),
        "scheduler": rng.choice(real.bundle.parameters["scheduler"].choices),
        "seed": rng.randrange(2**40),
        "num_images_per_prompt": rng.choice([1, 1, 1, 2]),
    }
    task = rng.choice(["inpaint", "inpaint", "image_to_image", "text_to_image"])
    if task == "text_to_image":
        values |= {"height": 64, "width": 64}
    else:
        values |= {"image": picture(height, width, rng.randrange(100)), "strength": rng.choice([0.6, 1.0])}
    if task == "inpaint":
        values |= {"mask_image": hole(height, width), "latent_blend": rng.random() < 0.7}
    return inputs(**values)


def run(
    real: Real, requests: list[Arrays], rows: list[int] | None = None, **settings: Any
) -> list[list[npt.NDArray[np.uint8]]]:
    """The pictures of each request, all of which wait at the loop's door before the first network call.

    rows: filled with the rows of each denoiser call.
    """
    ready = threading.Event()

    def text_encoder(**arrays: Any) -> Any:
        assert ready.wait(WAIT_SECONDS)
        return real.engines["text_encoder"](**arrays)

    def unet(**arrays: Any) -> Any:
        if rows is not None:
            rows.append(len(arrays["timestep"]))
        return real.engines["unet"](**arrays)

    engines = {**real.engines, "text_encoder": text_encoder, "unet": unet}
    with serving(engines, bundle=real.bundle, tokenizers=real.tokenizers, settings=settings) as service:
        clients = [FakeClient() for _ in requests]
        jobs = [service.submit(request, client) for request, client in zip(requests, clients, strict=True)]
        until(lambda: all(prepared(job) or job.ended for job in jobs))
        ready.set()
        return [client.images() for client in clients]


@pytest.mark.parametrize("seed", range(5))
def test_a_request_alone_and_among_seven_neighbours_gives_identical_bytes(real: Real, seed: int) -> None:
    """The same seed means the same picture on a busy server: the promise that makes results reproducible at all."""
    rng = random.Random(seed)
    requests = [random_request(rng, real) for _ in range(1 + NEIGHBOURS)]
    rows: list[int] = []
    together = run(real, requests, rows, max_rows=8, max_vae_rows=4)
    assert max(rows) > 2, "no two requests ever shared a call"
    for number, request in enumerate(requests):
        (alone,) = run(real, [request])
        for index, (busy, quiet) in enumerate(zip(together[number], alone, strict=True)):
            off = np.abs(busy.astype(int) - quiet)
            assert busy.tobytes() == quiet.tobytes(), f"request {number}, image {index}: {off.max()} off, {off.mean()}"


def test_row_caps_do_not_change_a_byte(real: Real) -> None:
    """Guards against batch composition leaking into results when an operator tunes the server."""
    rng = random.Random(99)
    requests = [random_request(rng, real) for _ in range(6)]
    narrow, wide = run(real, requests, max_rows=1, max_vae_rows=1), run(real, requests, max_rows=32, max_vae_rows=8)
    for some, others in zip(narrow, wide, strict=True):
        assert [image.tobytes() for image in some] == [image.tobytes() for image in others]


def test_the_plain_loop_and_the_batched_loop_agree_to_the_byte(real: Real) -> None:
    """The slow obvious loop is the reference for the fast one."""
    rng = random.Random(7)
    requests = [random_request(rng, real) for _ in range(6)]
    plain, batched = run(real, requests, loop="plain"), run(real, requests, loop="batched")
    for some, others in zip(plain, batched, strict=True):
        assert [image.tobytes() for image in some] == [image.tobytes() for image in others]


def test_different_seeds_give_different_pictures(real: Real) -> None:
    """Guards the tests above: equal bytes prove something only if another seed changes them."""
    request = {"image": picture(32, 48), "mask_image": hole(32, 48), "num_inference_steps": 2}
    (one,), (another,) = run(real, [inputs(**request, seed=0), inputs(**request, seed=1)])
    assert one.tobytes() != another.tobytes()
