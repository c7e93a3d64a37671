"""Every error the client raises on purpose.

GessoError                   `.text`, and `.field`: the input it is about, or None
├── InvalidRequest           INVALID_ARG   the request is wrong; nothing was computed
│   └── Unsupported                        right, but not over this transport
├── NotFound                 NOT_FOUND     no such model, scheduler or adapter
├── Unavailable              UNAVAILABLE   the queue is full or the server is draining; the only kind that is retried
│   └── ConnectionFailed                   nobody answered, or the connection broke; the work may have begun: no retry
├── Cancelled                CANCELLED     by this client
├── DeadlineExceeded         DEADLINE      the request's own `deadline` passed
└── ServerError              INTERNAL      the server's fault, or an answer this client cannot read
    └── DamagedPicture                     a picture that came back is not the one that was sent, outside the mask

Fields carry the wire's names (`mask_image`, `num_inference_steps`), whichever end found the fault.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

MOST_CHARACTERS = 2000  # of an error; a server's, or a list of names, may be long
MOST_OF_A_VALUE = 120


class GessoError(Exception):
    """The root of the tree. `str(error)` is `field: text`, or `text` alone.

    `finished`: the pictures of the request that were there before it, each an events.Image.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, text: str, field: str | None = None) -> None:
        text = _cut(text, MOST_CHARACTERS)
        super().__init__(f"{field}: {text}" if field else text)
        self.text = text
        self.field = field
        self.finished: tuple[Any, ...] = ()


class InvalidRequest(GessoError):
    pass


class Unsupported(InvalidRequest):
    pass


class NotFound(GessoError):
    pass


class Unavailable(GessoError):
    retryable = True


class ConnectionFailed(Unavailable):
    retryable = False


class Cancelled(GessoError):
    def __init__(self, text: str = "the request was cancelled", field: str | None = None) -> None:
        super().__init__(text, field)


class DeadlineExceeded(GessoError):
    pass


class ServerError(GessoError):
    pass


class DamagedPicture(ServerError):
    pass


def shortened(value: object) -> str:
    """`repr`, fit for a line: the beginning and the end of what is long."""
    try:
        return _cut(repr(value), MOST_OF_A_VALUE)
    except Exception:  # Python refuses to write integers of over 4300 digits, and an object may do what it likes
        return f"<{type(value).__name__}>"


def one_line(what: object) -> str:
    """Its text, fit for a line of a terminal."""
    return _cut(" ".join(str(what).split()), MOST_CHARACTERS)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 4 :]}"


def unreadable(error: object) -> ServerError:
    """For an answer outside the contract; `error` says what was wrong with it."""
    return ServerError(f"an answer this client cannot read: {error}")


# The server's own codes; its messages are `CODE: field: text` or `CODE: text`.
CODES: dict[str, type[GessoError]] = {
    "INVALID_ARG": InvalidRequest,
    "NOT_FOUND": NotFound,
    "UNAVAILABLE": Unavailable,
    "CANCELLED": Cancelled,
    "DEADLINE": DeadlineExceeded,
    "INTERNAL": ServerError,
}
CODED = re.compile(rf"\b(?P<code>{'|'.join(CODES)}): (?:(?P<field>[a-z][a-z0-9_]*): )?(?P<text>.*)", re.DOTALL)

# What Triton says itself, without a code. A gRPC stream loses the status too, so the words are all there is.
TRITON: tuple[tuple[re.Pattern[str], type[GessoError]], ...] = (
    (re.compile(r"unexpected inference input '(?P<field>\w+)'"), InvalidRequest),
    (re.compile(r"unexpected shape for input '(?P<field>\w+)'"), InvalidRequest),
    (re.compile(r"inference input '(?P<field>\w+)' data-type"), InvalidRequest),
    (re.compile(r"expected .*\d+ inputs? but got"), InvalidRequest),
    (re.compile(r"unknown (?P<field>model): .*is not found"), NotFound),
    (re.compile(r"not ready|not healthy|no available versions|exiting|[Ee]xceeds maximum queue size"), Unavailable),
)

# By the name of the gRPC status. A message of gesso's or Triton's own is matched first: a bare UNAVAILABLE is what
# gRPC reports about the connection.
GRPC_STATUSES: dict[str, type[GessoError]] = {
    "CANCELLED": Cancelled,
    "UNKNOWN": ServerError,
    "INVALID_ARGUMENT": InvalidRequest,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": ServerError,
    "PERMISSION_DENIED": InvalidRequest,
    "RESOURCE_EXHAUSTED": InvalidRequest,  # a message above the size limit of one end
    "FAILED_PRECONDITION": ServerError,
    "ABORTED": ServerError,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": ServerError,
    "INTERNAL": ServerError,
    "UNAVAILABLE": ConnectionFailed,
    "DATA_LOSS": ServerError,
    "UNAUTHENTICATED": InvalidRequest,
}

HTTP_STATUSES: dict[int, type[GessoError]] = {
    400: InvalidRequest,
    401: InvalidRequest,
    403: InvalidRequest,
    404: NotFound,
    408: DeadlineExceeded,
    413: InvalidRequest,
    429: Unavailable,
    499: Cancelled,
    503: Unavailable,
    504: DeadlineExceeded,
}


def from_server(message: str, status: str | int | None = None) -> GessoError:
    """The typed error for a message of the server's: the one place where foreign errors become ours.

    status: the name of the gRPC status, the HTTP status, or None where the transport has none (a gRPC stream).
    """
    # Triton may put words of its own in front. So may gRPC, about connections, and it has codes of the same names:
    # "failed to connect to all addresses; last error: UNAVAILABLE: ...".
    coded = CODED.match(message) if status == "UNAVAILABLE" else CODED.search(message)
    if coded:
        return CODES[coded["code"]](coded["text"].strip(), coded["field"])
    text = message.strip() or f"the server answered status {status} and no message"
    for pattern, kind in TRITON:
        found = pattern.search(message)
        if found:
            return kind(text, found.groupdict().get("field"))
    if isinstance(status, int):
        return HTTP_STATUSES.get(status, ServerError)(text)
    return GRPC_STATUSES.get(status or "UNKNOWN", ServerError)(text)
