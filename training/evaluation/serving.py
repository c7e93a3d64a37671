"""The served side: questions through the SDK, and how long one takes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.harness.alternate import timed
from gesso_client import Client
from training.evaluation.tasks import Question
from training.scenes.scene import Pixels

STEPS = 20
IN_FLIGHT = 4  # requests at once; what a request returns does not depend on its neighbours
TIMED = 7


def answer(client: Client, question: Question) -> Pixels:
    """The picture that comes back, as large as the question's. The bundle's own sampler."""
    result = client.inpaint(
        question.image,
        question.mask,
        question.prompt,
        seed=question.seed,
        num_inference_steps=STEPS,
        guidance_scale=question.guidance_scale,
    )
    return np.asarray(result.image)


def answers(client: Client, questions: Sequence[Question]) -> list[Pixels]:
    """In the questions' order."""
    pictures = []
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        for picture in pool.map(lambda question: answer(client, question), questions):
            pictures.append(picture)
            if len(pictures) % 50 == 0:
                print(f"  {len(pictures)} of {len(questions)}", flush=True)
    return pictures


def seconds_per_picture(client: Client, question: Question) -> float:
    """End to end, one request at a time: the median of TIMED after a first that is not counted."""
    times = [timed(lambda: answer(client, question)) for _ in range(TIMED + 1)]
    return statistics.median(times[1:])
