"""Sending requests through the SDK: one after another, all at once, or at given moments."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.pictures import Pixels
from benchmarks.load.requests import GUIDANCE, Request
from gesso_client import AsyncClient

NETWORKS = ("text_encoder", "vae_encoder", "unet", "vae_decoder")
WARM = 4  # requests sent first, which do not count


@dataclass(frozen=True)
class Answer:
    """seconds: from when the request was due. rows: of a step, on average. Also the seconds of the network calls that
    the request was part of, and of its steps among them."""

    seconds: float
    digest: str
    rows: float
    networks: float
    steps: float


async def send(client: AsyncClient, image: Pixels, request: Request, due: float) -> Answer:
    """due: on time.perf_counter; the latency counts from there."""
    result = await client.inpaint(
        image,
        request.mask,
        request.prompt,
        seed=request.seed,
        num_inference_steps=request.steps,
        guidance_scale=GUIDANCE,
    )
    seconds = time.perf_counter() - due
    assert result.report["changed_outside_mask"] == 0
    digest = hashlib.sha256(np.asarray(result.image).tobytes()).hexdigest()
    stages = {name: ms / 1000 for name, ms in result.report["timings_ms"].items()}
    networks = sum(stages.get(name, 0.0) for name in NETWORKS)
    return Answer(seconds, digest, result.report["rows_per_step"], networks, stages["unet"])


async def one_after_another(url: str, image: Pixels, requests: Sequence[Request]) -> tuple[list[Answer], float]:
    """(each one's answer, requests a second)."""
    async with AsyncClient(url) as client:
        await _warm(client, image, requests)
        started = time.perf_counter()
        answers = [await send(client, image, request, time.perf_counter()) for request in requests]
        return answers, len(requests) / (time.perf_counter() - started)


async def all_at_once(url: str, image: Pixels, requests: Sequence[Request]) -> tuple[list[Answer], float]:
    async with AsyncClient(url) as client:
        await _warm(client, image, requests)
        started = time.perf_counter()
        answers = await asyncio.gather(*(send(client, image, request, started) for request in requests))
        return answers, len(requests) / (time.perf_counter() - started)


async def open_loop(url: str, image: Pixels, requests: Sequence[Request], moments: Sequence[float]) -> list[Answer]:
    """moments: when each is due, seconds from the start."""
    async with AsyncClient(url) as client:
        await _warm(client, image, requests)
        started = time.perf_counter()
        running = []
        for request, moment in zip(requests, moments, strict=True):
            await asyncio.sleep(max(0.0, started + moment - time.perf_counter()))
            running.append(asyncio.create_task(send(client, image, request, started + moment)))
        return await asyncio.gather(*running)


async def _warm(client: AsyncClient, image: Pixels, requests: Sequence[Request]) -> None:
    for request in requests[:WARM]:
        await send(client, image, request, 0.0)
