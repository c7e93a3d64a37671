"""One HTTP request and its response, with its errors made ours."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable

from gesso_client.errors import Cancelled, ConnectionFailed, DeadlineExceeded, from_server
from gesso_client.transport import http_messages as messages
from gesso_client.transport.address import Address

CONNECT_TIMEOUT_S = 10.0
NOT_TRITONS = (*range(300, 400), 404, 405, 501)  # without an error in Triton's form


class Exchange:
    """One request and its response over a connection of its own. `cancel` cuts it from any thread."""

    def __init__(self, address: Address, deadline: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
        proxy = address.proxy
        near = (address.host, address.port) if proxy is None else (proxy.host, proxy.port)
        self._connection = kind(*near, timeout=CONNECT_TIMEOUT_S)
        self._prefix, self._headers = messages.through(address)
        if proxy is not None and address.secure:
            self._connection.set_tunnel(address.host, address.port, self._headers)
            self._headers = {}
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
            raise DeadlineExceeded(f"{self._address.where} did not answer in time") from error
        except (http.client.BadStatusLine, http.client.UnknownProtocol) as error:
            self._raise_if_cancelled()
            if isinstance(error, http.client.RemoteDisconnected):
                raise ConnectionFailed(f"{self._address.where} closed the HTTP connection without an answer") from error
            advice = "with gRPC the URL has no http://, with TLS it begins with https://"
            raise ConnectionFailed(f"what listens at {self._address.where} does not speak HTTP; {advice}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._raise_if_cancelled()
            raise ConnectionFailed(f"the HTTP connection to {self._address.where} broke: {error!r}") from error
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

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            self._connection.connect()
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last of a host that cannot be one
            if "WRONG_VERSION_NUMBER" in str(error):
                text = (
                    f"what listens at {self._address.where} does not speak TLS; without it the URL begins with http://"
                )
                raise ConnectionFailed(text) from error
            raise ConnectionFailed(f"the HTTP connection to {self._address.where} failed: {error}") from error
        with self._lock:
            self._socket = self._connection.sock
            self._socket.settimeout(None)
        self._raise_if_cancelled()
        answer: list[http.client.HTTPResponse] = []

        def exchange() -> bytes:
            self._connection.request(method, self._prefix + path, body, headers | self._headers)
            answer.append(self._connection.getresponse())
            return b"" if answer[0].status == http.client.OK else answer[0].read()

        refusal = self.read(exchange)
        status = answer[0].status
        if status != http.client.OK:
            known = _tritons_error(refusal)
            if known is None and self._address.proxy is not None:
                raise ConnectionFailed(f"the HTTP connection to {self._address.where} failed: HTTP {status}")
            if known is None and status in NOT_TRITONS:
                raise self.no_gesso(f"it answered HTTP {status}")
            raise from_server(_line(refusal) if known is None else known, status)
        return answer[0]

    def no_gesso(self, found: str) -> ConnectionFailed:
        return ConnectionFailed(f"what listens at {self._address.where} is no gesso server: {found}")

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled


def _tritons_error(body: bytes) -> str | None:
    """Of its `{"error": ...}`, or that in its server-sent form; None of what somebody else wrote."""
    try:
        return str(json.loads(body.strip().removeprefix(b"data:"))["error"])
    except (ValueError, KeyError, TypeError):
        return None


def _line(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())[:200]
