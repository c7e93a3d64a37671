"""One HTTP request and its response, with its errors made ours."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable

from gesso_client.errors import Cancelled, ConnectionFailed, DeadlineExceeded, from_server
from gesso_client.transport import http_messages as messages
from gesso_client.transport.address import Address

CONNECT_TIMEOUT_S = 10.0
NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "UNEXPECTED_EOF_WHILE_READING",
)  # it answers in its own words, or hangs up as Triton does
READ_SIZE = 1 << 16  # bytes of an answer, at most, at once
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
        self._answer: http.client.HTTPResponse | None = None
        self._lock = threading.Lock()
        self._cancelled = False

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send it and read the head of the answer. Raises GessoError, also for a status other than 200."""
        return self._send("POST", path, body, headers)

    def get(self, path: str) -> http.client.HTTPResponse:
        return self._send("GET", path, None, {})

    def part(self, answer: http.client.HTTPResponse) -> bytes:
        """What comes next of an answer; empty at its end. Raises ConnectionFailed where it breaks off."""
        # readline would take a connection that breaks for the end of a chunked answer; read1 does not. And read would
        # begin its time anew with every byte.
        data = self._read(lambda: answer.read1(READ_SIZE))
        if not data and answer.length:
            raise ConnectionFailed(
                f"the HTTP connection to {self._address.where} broke: {answer.length} bytes are missing"
            )
        return data

    def whole(self, answer: http.client.HTTPResponse) -> bytes:
        """All of an answer, within the deadline however slowly it comes."""
        return b"".join(iter(lambda: self.part(answer), b""))

    def _read(self, read: Callable[[], bytes]) -> bytes:
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
            if self._answer is not None:
                self._answer.close()  # the connection lets go of one that ends with it

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            self._connection.connect()
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last of a host that cannot be one
            hung_up = self._address.secure and isinstance(error, ConnectionResetError | BrokenPipeError)
            if hung_up or (isinstance(error, ssl.SSLError) and any(reason in str(error) for reason in NO_TLS)):
                text = (
                    f"what listens at {self._address.where} does not speak TLS; without it the URL begins with http://"
                )
                raise ConnectionFailed(text) from error
            raise ConnectionFailed(f"the HTTP connection to {self._address.where} failed: {error}") from error
        with self._lock:
            self._socket = self._connection.sock
            self._socket.settimeout(None)
        self._raise_if_cancelled()

        def exchange() -> bytes:
            self._connection.request(method, self._prefix + path, body, headers | self._headers)
            self._answer = self._connection.getresponse()
            return b""

        self._read(exchange)
        answer = self._answer
        assert answer is not None
        status = answer.status
        if status != http.client.OK:
            refusal = self.whole(answer)
            known = _tritons_error(refusal)
            if known is None and self._address.proxy is not None:
                raise ConnectionFailed(f"the HTTP connection to {self._address.where} failed: HTTP {status}")
            if known is None and status in NOT_TRITONS:
                raise self.no_gesso(f"it answered HTTP {status}")
            raise from_server(_line(refusal) if known is None else known, status)
        return answer

    def no_gesso(self, found: str) -> ConnectionFailed:
        return ConnectionFailed(f"what listens at {self._address.where} is no gesso server: {found}")

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled


def _tritons_error(body: bytes) -> str | None:
    """Of its `{"error": ...}`, or that in its server-sent form; None of what somebody else wrote."""
    try:
        return str(json.loads(body.strip().removeprefix(b"data:"))["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _line(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())[:200]
