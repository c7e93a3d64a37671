"""The health check of the images, run as Docker runs it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "healthcheck.py"


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v2/models/inpaint/ready" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def check(url: str) -> int:
    return subprocess.run(
        [sys.executable, SCRIPT], env={"GESSO_HEALTH": url}, capture_output=True, timeout=30
    ).returncode


def test_a_ready_model_is_healthy() -> None:
    with answering(200) as url:
        assert check(f"{url}/v2/models/inpaint/ready") == 0


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_model_that_is_not_ready_is_not_healthy(status: int) -> None:
    """Guards against a container called healthy without its model."""
    with answering(status) as url:
        assert check(f"{url}/v2/models/inpaint/ready") == 1


def test_nobody_listening_is_not_healthy() -> None:
    with answering(200) as url:
        pass
    assert check(f"{url}/v2/models/inpaint/ready") == 1
