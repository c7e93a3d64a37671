"""HTTP with the standard library: one connection per request, so that it can be cut from another thread.

A request nobody follows goes to the one-response twin; Triton does not tell that model when the caller hangs up, so
a cancelled one is computed to its end for nobody. A request that is followed, or that wants several pictures, goes
through `generate_stream`, where hanging up cancels.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from gesso_client.errors import Cancelled, ConnectionFailed, DeadlineExceeded, Unsupported, from_server, unreadable
from gesso_client.events import Response
from gesso_client.request import Request
from gesso_client.transport import Address
from gesso_client.transport import http_messages as messages
from gesso_client.transport.contract import GRACE_S, METADATA_TIMEOUT_S, ONCE, PARAMETER

CONNECT_TIMEOUT_S = 10.0
READ_SIZE = 1 << 16  # bytes of a stream, at most, at once


class Exchange:
    """One request and its response over a connection of its own. `cancel` cuts it from any thread."""

    def __init__(self, address: Address, deadline: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
        self._connection = kind(address.host, address.port, timeout=CONNECT_TIMEOUT_S)
        self._address = address
        self._clock = clock
        self._ends = None if deadline is None else clock() + deadline
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._cancelled = False

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send it and read the head of the answer. Raises GessoError, also for a status other than 200."""
        return self._send("POST", path, body, headers)

    def get(self, path: str) -> http.client.HTTPResponse:
        return self._send("GET", path, None, {})

    def read(self, read: Callable[[], bytes]) -> bytes:
        """`read()`, within the deadline and with its errors mapped."""
        try:
            if self._socket is not None and self._ends is not None:
                left = self._ends - self._clock()
                if left <= 0:  # a timeout of nothing would mean none
                    raise TimeoutError
                self._socket.settimeout(left)
            data = read()
        except TimeoutError as error:
            raise DeadlineExceeded("the server did not answer in time") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._raise_if_cancelled()
            raise ConnectionFailed(f"the HTTP connection to {self._where} broke: {error!r}") from error
        self._raise_if_cancelled()
        return data

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it ended by itself
                    self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads; close would not

    def close(self) -> None:
        with self._lock:
            self._socket = None
            self._connection.close()

    @property
    def _where(self) -> str:
        return f"{self._address.host}:{self._address.port}"

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            self._connection.connect()
        except OSError as error:
            raise ConnectionFailed(f"the HTTP connection to {self._where} failed: {error}") from error
        with self._lock:
            self._socket = self._connection.sock
            self._socket.settimeout(None)
        self._raise_if_cancelled()
        answer: list[http.client.HTTPResponse] = []

        def exchange() -> bytes:
            self._connection.request(method, self._address.path + path, body, headers)
            answer.append(self._connection.getresponse())
            return b"" if answer[0].status == http.client.OK else answer[0].read()

        refusal = self.read(exchange)
        if answer[0].status != http.client.OK:
            raise from_server(_error_text(refusal), answer[0].status)
        return answer[0]

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled


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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise unreadable(repr(error)) from error
        finally:
            self._exchange.close()

    def cancel(self) -> None:
        self._exchange.cancel()

    def _once(self) -> Iterator[Response]:
        body, headers = messages.infer_body(self._request)
        answer = self._exchange.post(f"/v2/models/{quote(self._request.model + ONCE, safe='')}/infer", body, headers)
        data = self._exchange.read(answer.read)
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
        """answer.readline would take a connection that breaks for the end of the answer; read1 does not."""
        pending = bytearray()
        while chunk := self._exchange.read(lambda: answer.read1(READ_SIZE)):
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
        return tuple(model["name"] for model in self._query("/v2/models/stats")["model_stats"])

    def describe(self, model: str) -> str | None:
        parameter = self._query(f"/v2/models/{quote(model, safe='')}/config").get("parameters", {}).get(PARAMETER)
        return None if parameter is None else str(parameter["string_value"])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def _query(self, path: str) -> Any:
        exchange = Exchange(self._address, METADATA_TIMEOUT_S)
        try:
            return json.loads(exchange.read(exchange.get(path).read))
        except ValueError as error:
            raise unreadable(error) from error
        finally:
            exchange.close()


def _error_text(body: bytes) -> str:
    """Triton's `{"error": ...}`, its server-sent form, or whatever a proxy wrote."""
    text = body.decode(errors="replace").strip()
    try:
        return str(json.loads(text.removeprefix("data:"))["error"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:200]
