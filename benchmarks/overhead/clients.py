"""Clients that stream progress, and note when each event came."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from benchmarks.harness.pictures import middle, noise
from gesso_client import Client, Progress

CROWD = 4  # clients at once
Moments = dict[tuple[int, int], int]  # (seed, step) -> ns of CLOCK_MONOTONIC


@dataclass(frozen=True)
class Size:
    name: str
    side: int  # pixels
    steps: int
    requests: int  # of each client


SHIPPED = Size("shipped", 128, 20, 10)
SD15 = Size("sd15", 256, 4, 2)


def closed_loop(client: Client, size: Size, clients: int, requests: int, seed: int) -> Moments:
    """`clients` at once, each `requests` one after another. Raises RuntimeError when an event is missing."""
    received: Moments = {}

    def one(number: int) -> None:
        for request in range(requests):
            received.update(send(client, size, seed + number * requests + request))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(received) != clients * requests * size.steps:
        raise RuntimeError(f"{len(received)} progress events for {clients * requests} requests")
    return received


def send(client: Client, size: Size, seed: int) -> Moments:
    """One request; when each of its progress events came."""
    received: Moments = {}
    for event in client.stream(
        noise(size.side, seed), middle(size.side), f"a balloon, number {seed}",
        seed=seed, scheduler="ddim", num_inference_steps=size.steps,
    ):  # fmt: skip
        if isinstance(event, Progress):
            received[seed, event.step] = time.monotonic_ns()
    return received


def send_until(client: Client, size: Size, number: int, stop: threading.Event) -> None:
    seed = 10**7 * (number + 1)
    while not stop.is_set():
        send(client, size, seed)
        seed += 1
