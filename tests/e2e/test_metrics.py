"""The families gesso adds to Triton's metrics endpoint, and that they move as their names say."""

from __future__ import annotations

import urllib.request

import pytest

from e2e.jobs import inpaint, long_job, photo, text_to_image
from e2e.server import Server
from e2e.wire import Refused, infer_binary, infer_grpc, stream_grpc

pytestmark = pytest.mark.e2e

FAMILIES = {
    "gesso_active_rows": "gauge",
    "gesso_queue_depth": "gauge",
    "gesso_step_seconds": "histogram",
    "gesso_rows_per_step": "histogram",
    "gesso_cache_hits_total": "counter",
    "gesso_stage_seconds": "histogram",
    "gesso_requests_total": "counter",
}


def test_every_family_is_there_once_and_says_its_model(server: Server) -> None:
    for _ in range(2):  # the second finds its prompt in a cache
        infer_binary(server.http, inpaint())
    server.until(lambda: server.metric("gesso_requests_total") > 0)  # counted just after the reply
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    kinds = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE gesso_"))
    assert kinds == FAMILIES
    ours = [(name, labels) for name, labels, _ in server.samples() if name.startswith("gesso_")]
    assert {labels["model"] for _, labels in ours} == {"inpaint"}
    assert {"prepare", "queue", "text_encoder", "vae_encoder", "unet", "vae_decoder", "composite"} == {
        labels["stage"] for name, labels in ours if name == "gesso_stage_seconds_count"
    }


def test_a_request_moves_the_counts_by_what_it_did(server: Server) -> None:
    counts = {
        "gesso_step_seconds_count": 4.0,  # steps
        "gesso_rows_per_step_sum": 8.0,  # with guidance: two rows each
        "gesso_rows_per_step_count": 4.0,
        "gesso_requests_total": 1.0,
        "gesso_stage_seconds_count": 7.0,  # one per stage
    }
    before = {name: server.metric(name) for name in counts}
    seconds = server.metric("gesso_step_seconds_sum")
    new = inpaint(prompt="asked by no other test", image=255 - photo())  # so that nothing of it is in a cache
    report = infer_binary(server.http, new).report
    server.until(lambda: {name: server.metric(name) - before[name] for name in counts} == counts)
    in_steps = server.metric("gesso_step_seconds_sum") - seconds
    assert in_steps == pytest.approx(report["timings_ms"]["unet"] / 1000, abs=1e-3)


def test_guidance_of_1_costs_one_row_a_step(server: Server) -> None:
    before = server.metric("gesso_rows_per_step_sum")
    infer_binary(server.http, text_to_image())
    server.until(lambda: server.metric("gesso_rows_per_step_sum") - before == 4)


def test_active_rows_count_what_runs(server: Server) -> None:
    """Two rows with guidance, one without, and two for each of several images."""
    running = []
    for options, rows in (({}, 2), ({"guidance_scale": 1.0}, 3), ({"num_images_per_prompt": 2}, 7)):
        running.append(stream_grpc(server.grpc, long_job(**options)))
        next(running[-1])
        server.until(lambda rows=rows: server.metric("gesso_active_rows") == rows)
    for events in running:
        events.close()
    server.until(lambda: server.metric("gesso_active_rows") == 0)


def test_outcomes_are_counted_by_name(server: Server) -> None:
    def counted(outcome: str) -> float:
        return server.metric("gesso_requests_total", model="inpaint", outcome=outcome)

    before = {outcome: counted(outcome) for outcome in ("ok", "invalid_arg", "not_found", "deadline", "cancelled")}
    infer_grpc(server.grpc, text_to_image())
    for inputs, parameters in (
        (text_to_image(num_inference_steps=0), {}),
        (text_to_image(scheduler="warp"), {}),
        (long_job(), {"timeout": 100_000}),
    ):
        with pytest.raises(Refused):
            infer_grpc(server.grpc, inputs, **parameters)
    events = stream_grpc(server.grpc, long_job())
    next(events)
    events.close()
    server.until(
        lambda: {outcome: counted(outcome) - count for outcome, count in before.items()} == dict.fromkeys(before, 1)
    )
