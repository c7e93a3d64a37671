"""Everything at once."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from backend.fakes import Arrays, FakeClient, FakeEngines, code, hole, inputs, picture, serving, until
from gesso_backend.serving.events import Event
from gesso_backend.serving.metrics import NoMetrics

BOTH_LOOPS = pytest.mark.parametrize("loop", ["batched", "plain"])


class Unreliable(FakeClient):
    """Fails at its third event."""

    def send(self, event: Event) -> None:
        if len(self.events) == 2:
            raise OSError("broken pipe")
        super().send(event)


def storm_request(rng: random.Random) -> Arrays:
    size = rng.choice([(16, 16), (16, 32), (33, 17)])
    values: dict[str, Any] = {
        "prompt": rng.choice("abc"),
        "seed": rng.randrange(5),
        "num_inference_steps": rng.randint(2, 6),
        "guidance_scale": rng.choice([1.0, 5.0]),
        "scheduler": rng.choice(["ddim", "pndm", "euler_ancestral"]),
        "num_images_per_prompt": rng.choice([1, 1, 3]),
        "preview_every": rng.choice([0, 2]),
    }
    if rng.random() < 0.6:
        values |= {"image": picture(*size), "mask_image": hole(*size) if rng.random() < 0.7 else None}
    if rng.random() < 0.1:
        values |= {"scheduler": "none such"}
    return inputs(**values)


@BOTH_LOOPS
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_requests_cancels_and_failures_is_one_reply_each(seed: int, loop: str) -> None:
    """Guards the promise everything else rests on, where its parts meet: sixty jobs of every fate, each ended exactly
    once, nothing left behind, and whoever got a picture got their own."""
    rng = random.Random(seed)
    trouble = random.Random(seed + 1)  # used by the loop's thread alone

    def fail(network: str, arrays: Arrays) -> None:
        if trouble.random() < 0.02:
            raise RuntimeError("bad luck")

    outcomes: Counter[str] = Counter()

    class Outcomes(NoMetrics):
        def request(self, outcome: str) -> None:
            outcomes[outcome] += 1

    requests = [storm_request(rng) for _ in range(60)]
    clients = [rng.choice([FakeClient, FakeClient, FakeClient, Unreliable])() for _ in requests]
    with serving(
        FakeEngines(fail), settings={"loop": loop, "max_queue": 50, "max_rows": 4}, metrics=Outcomes()
    ) as service:
        for number, (request, client) in enumerate(zip(requests, clients, strict=True)):
            job = service.submit(request, client, timeout=rng.choice([None, None, 0.0, 0.05]), job_id=str(number))
            match rng.randrange(6):
                case 0:
                    client.gone = True
                case 1:
                    service.cancel(str(rng.randrange(number + 1)))
                case 2:
                    until(lambda job=job: job.ended or job.account.started)  # type: ignore[misc]
        replies = [client.wait() for client in clients]
        until(lambda: service._admission.jobs == [])
    assert all(len(client.finals) == 1 and client.late == [] for client in clients)
    assert Counter(code(reply).lower() for reply in replies) == outcomes
    assert outcomes["ok"]
    assert len(outcomes) >= 3, "too calm a storm to prove anything"
    with serving() as service:
        for request, client, reply in zip(requests, clients, replies, strict=True):
            if reply is None:
                alone = FakeClient()
                service.submit(request, alone)
                assert [image.tobytes() for image in client.images()] == [i.tobytes() for i in alone.images()]
