"""HTTP with the standard library: one connection per request, so that it can be cut from another thread.

A request nobody follows goes to the one-response twin; Triton does not tell that model when the caller hangs up, so
a cancelled one is computed to its end for nobody. A request that is followed, or that wants several pictures, goes
through `generate_stream`, where hanging up cancels.
"""

from __future__ import annotations

import http.client
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from gesso_client.errors import ConnectionFailed, Unsupported, from_server, unreadable
from gesso_client.events import Response
from gesso_client.request import Request
from gesso_client.transport import http_messages as messages
from gesso_client.transport.address import Address
from gesso_client.transport.contract import GRACE_S, METADATA_TIMEOUT_S, ONCE, PARAMETER
from gesso_client.transport.exchange import Exchange

T = TypeVar("T")


class HttpCall:
    def __init__(self, address: Address, request: Request) -> None:
        self._request = request
        self._followed = request.live or request.count > 1
        # generate_stream takes no timeout: there the deadline is ours to keep. infer has one: there ours is the longer.
        grace = 0.0 if self._followed else GRACE_S
        self._exchange = Exchange(address, None if request.deadline is None else request.deadline + grace)

    def __iter__(self) -> Iterator[Response]:
        try:
            yield from self._stream() if self._followed else self._once()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise unreadable(repr(error)) from error
        finally:
            self._exchange.close()

    def cancel(self) -> None:
        self._exchange.cancel()

    def _once(self) -> Iterator[Response]:
        body, headers = messages.infer_body(self._request)
        answer = self._exchange.post(f"/v2/models/{quote(self._request.model + ONCE, safe='')}/infer", body, headers)
        data = self._exchange.whole(answer)
        yield messages.infer_response(data, int(answer.headers[messages.HEADER_LENGTH]))

    def _stream(self) -> Iterator[Response]:
        body, headers = messages.generate_body(self._request)
        path = f"/v2/models/{quote(self._request.model, safe='')}/generate_stream"
        answer = self._exchange.post(path, body, headers)
        for line in self._lines(answer):
            if line.startswith(b"data:"):
                fields = json.loads(line.removeprefix(b"data:"))
                if "error" in fields:
                    raise from_server(fields["error"])
                yield messages.generate_event(fields, self._request)

    def _lines(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        pending = bytearray()
        while chunk := self._exchange.part(answer):
            pending += chunk
            if b"\n" in chunk:
                *lines, rest = bytes(pending).split(b"\n")
                yield from lines
                pending = bytearray(rest)


class HttpTransport:
    """contract.Transport over HTTP."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._calls: weakref.WeakSet[HttpCall] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, request: Request) -> HttpCall:
        if "preview_every" in request.inputs and request.inputs["preview_every"][0] > 0:
            advice = "connect to the gRPC port, such as localhost:8001"
            raise Unsupported(f"HTTP carries no previews; {advice}", "preview_every")
        call = HttpCall(self._address, request)
        with self._lock:
            if self._closed:
                raise ConnectionFailed("the client is closed")
            self._calls.add(call)
        return call

    def model_names(self) -> tuple[str, ...]:
        return self._query("/v2/models/stats", lambda found: tuple(model["name"] for model in found["model_stats"]))

    def describe(self, model: str) -> str | None:
        parameter = self._query(
            f"/v2/models/{quote(model, safe='')}/config", lambda found: found.get("parameters", {}).get(PARAMETER)
        )
        return None if parameter is None else str(parameter["string_value"])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def _query(self, path: str, read: Callable[[Any], T]) -> T:
        if self._closed:
            raise ConnectionFailed("the client is closed")
        exchange = Exchange(self._address, METADATA_TIMEOUT_S)
        try:
            return read(json.loads(exchange.whole(exchange.get(path))))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise exchange.no_gesso("its answer is another than Triton's") from error
        finally:
            exchange.close()
