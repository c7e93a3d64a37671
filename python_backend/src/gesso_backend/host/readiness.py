"""Whether our own Triton is ready: it answers by a name that only we gave it, and so does each of its models."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence

ANSWER_SECONDS = 5.0
ANSWER_BYTES = 2**16  # of whoever listens there


class Readiness:
    """Asks at one address. Another server there, with models of the same names, is not taken for ours."""

    def __init__(self, host: str, port: int, server: str, models: Sequence[str]) -> None:
        """server: what Triton was given as `--id`."""
        self._address = _reachable(host), port
        self._server = server
        self._models = models

    def ask(self) -> bool:
        """Whether it is there and all models are ready."""
        connection = http.client.HTTPConnection(*self._address, timeout=ANSWER_SECONDS)
        try:
            about = _get(connection, "/v2")
            ours = about is not None and json.loads(about)["name"] == self._server
            return ours and all(_get(connection, f"/v2/models/{model}/ready") is not None for model in self._models)
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError):
            return False  # nobody there, or a stranger
        finally:
            connection.close()


def _get(connection: http.client.HTTPConnection, path: str) -> bytes | None:
    """What a 200 brought, or None."""
    connection.request("GET", path)
    response = connection.getresponse()
    content = response.read(ANSWER_BYTES)
    return content if response.status == 200 else None


def _reachable(host: str) -> str:
    """Where to ask a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
