"""Clients that do not read what they asked for: what they cost is bounded, and they are hung up on (F3)."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.conftest import Serve
from e2e.jobs import inpaint, photo
from e2e.server import Server
from e2e.wire import Refused, flat, grpc_request, infer_grpc, post, stream_grpc, stub, tensors
from gesso_backend.host import readers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SIDE = 2500  # pixels: a picture of 18 MiB


def large(**options: Any) -> dict[str, Any]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[1200:1240, 1200:1240] = 255
    asked = {"num_inference_steps": 1, "scheduler": "ddim", "padding_mask_crop": 8, **options}
    return tensors(prompt="a cat", image=photo(SIDE, SIDE), mask_image=mask, **asked)


@contextlib.contextmanager
def unread(server: Server, inputs: dict[str, Any]) -> Iterator[Any]:
    """A stream over gRPC that nobody reads."""
    with stub(server.grpc) as triton:
        call = triton.ModelStreamInfer(iter([grpc_request(inputs, "inpaint")]))
        yield call
        call.cancel()


def anonymous_mib(pid: int) -> float:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 2**10


def triton_pid(server: Server) -> int:
    return next(pid for pid, command in server.processes().items() if "model.py" not in command)


def test_previews_that_nobody_reads_are_small(serve: Serve, tiny_bundle: Path) -> None:
    """Guards Triton's memory: 200 previews as large as the picture were 6.9 GiB in 36 s, and here would be 3.6."""
    with serve(tiny_bundle) as server:
        triton = triton_pid(server)
        infer_grpc(server.grpc, large())
        before = anonymous_mib(triton)
        with unread(server, large(preview_every=1, num_inference_steps=200)):
            server.until(lambda: server.metric("gesso_requests_total", outcome="ok") >= 2)
            assert anonymous_mib(triton) - before < 350  # of 199 previews at most, 150 MiB, and what holds them
        with pytest.raises(Refused, match=r"INVALID_ARG: preview_every: .*preview_size") as refused:
            list(stream_grpc(server.grpc, large(preview_every=1, num_inference_steps=200, preview_size=2048)))
        assert refused.value.code == "stream"


def test_streams_that_nobody_reads_are_bounded_all_together(serve: Serve, tiny_bundle: Path) -> None:
    """Guards against many of them: each has ended for the model, and counts no more, while Triton keeps its picture."""
    bound = 200
    with serve(tiny_bundle, f"--max-output-mib={bound // 2}", f"--max-input-mib={bound // 2}") as server:
        triton = triton_pid(server)
        infer_grpc(server.grpc, large())
        before = anonymous_mib(triton)
        for _cycle in range(5):  # a little is given back when clients leave; most never is
            with contextlib.ExitStack() as streams:
                for _ in range(40):
                    if not answers(server):
                        break
                    done = server.metric("gesso_requests_total")
                    streams.enter_context(unread(server, large()))
                    server.until(lambda before=done: server.metric("gesso_requests_total") > before)
                else:
                    pytest.fail("40 pictures that nobody read were no reason to refuse")
                with pytest.raises(Refused, match="UNAVAILABLE: the server holds too much that clients have not read"):
                    infer_grpc(server.grpc, inpaint())
                assert anonymous_mib(triton) - before < 4 * bound
            server.until(lambda: answers(server), 150)
            if "Triton has to start again" in server.said():
                break
        assert "Triton has to start again" in server.said()
        assert anonymous_mib(triton_pid(server)) < before + bound


def test_what_gzip_bombs_leave_is_given_back(serve: Serve, tiny_bundle: Path) -> None:
    """Guards the other thing that Triton 24.10 never lets go: what a refused body unpacked to (F3, 3.1 GiB of 1 MB)."""
    bomb = gzip.compress(b'{"prompt":"' + b"a" * (300 * 2**20) + b'"}')
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    with serve(tiny_bundle, "--max-output-mib=100", "--max-input-mib=100") as server:
        infer_grpc(server.grpc, inpaint())
        response, _ = post(server.http, "/v2/models/inpaint_once/infer", bomb, headers)
        assert response.status >= 400
        assert not answers(server)
        server.until(lambda: answers(server), 150)
        assert anonymous_mib(triton_pid(server)) < 100


def answers(server: Server) -> bool:
    with contextlib.suppress(Refused):
        infer_grpc(server.grpc, inpaint())
        return True
    return False


def test_a_stream_lasts_as_long_as_is_said(serve: Serve, tiny_bundle: Path) -> None:
    """Guards what Triton keeps for a gRPC client that never reads: its connection is ended."""
    with serve(tiny_bundle, "--stream-seconds=2") as server, unread(server, large()):
        server.until(lambda: server.metric("gesso_requests_total", outcome="ok") == 1)
        server.until(lambda: not connections(server.grpc), 30)
        infer_grpc(server.grpc, inpaint())


def connections(address: str) -> int:
    """How many a server has open on a port of 127.0.0.1."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    mine, established = f"0100007F:{int(address.partition(':')[2]):04X}", "01"
    return sum(line.split()[1] == mine and line.split()[3] == established for line in lines)


def test_an_http_stream_that_nobody_reads_is_hung_up_on(serve: Serve, tiny_bundle: Path) -> None:
    """Guards the same over generate_stream: the kernel ends it; what it was to be sent is let go, and its job."""
    with serve(tiny_bundle) as server:
        readers.hang_up_on_idle(triton_pid(server), 2)
        host, port = server.http.split(":")
        asked = {**inpaint(512, 512), **tensors(height=512, width=512, preview_every=1, num_inference_steps=200)}
        body = json.dumps(flat(asked))
        with socket.create_connection((host, int(port))) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"POST /v2/models/inpaint/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            deaf.sendall((head + body).encode())
            server.until(lambda: server.metric("gesso_requests_total", outcome="cancelled") == 1, 60)
