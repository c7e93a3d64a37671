"""Every error the backend raises on purpose.

GessoError
├── RequestError            ends one request; `code` and `field` travel to the client
│   ├── InvalidRequest      INVALID_ARG   the request is wrong; names the field
│   ├── NotFound            NOT_FOUND     a name in the request is not known; names the field
│   ├── Unavailable         UNAVAILABLE   the queue is full or the server is draining: try again
│   ├── Cancelled           CANCELLED     the client cancelled
│   ├── DeadlineExceeded    DEADLINE      the request's own time limit passed
│   ├── InternalError       INTERNAL      our fault: an engine failed, a network answered NaN
│   │   └── NoProfile                     a TensorRT engine was not built for this shape (engines/)
│   └── ForwardedError      any of these  what `inpaint` answered to `inpaint_once`, word for word
├── BundleError             the bundle cannot be served; names the key or the file
│   └── EngineError         a network cannot be run as the settings ask (engines/)
├── SettingsError           a server setting is unknown or out of range
└── ServeError              gesso-serve cannot start or keep Triton
"""

from __future__ import annotations

import logging
import re

log = logging.getLogger(__name__)

UNTOLD = "the server's log says why"  # in place of the words of another library


class GessoError(Exception):
    """The root of the tree."""


class RequestError(GessoError):
    """Ends one request. `str(error)` is what travels: `CODE: field: text`, or `CODE: text` without a field."""

    code = "INTERNAL"

    def __init__(self, text: str, field: str | None = None) -> None:
        super().__init__(f"{self.code}: {field}: {text}" if field else f"{self.code}: {text}")
        self.text = text
        self.field = field


class InvalidRequest(RequestError):
    code = "INVALID_ARG"

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text, field)


class NotFound(RequestError):
    code = "NOT_FOUND"

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text, field)


class Unavailable(RequestError):
    code = "UNAVAILABLE"


class Cancelled(RequestError):
    code = "CANCELLED"


class DeadlineExceeded(RequestError):
    code = "DEADLINE"


class InternalError(RequestError):
    code = "INTERNAL"


class ForwardedError(RequestError):
    def __init__(self, message: str) -> None:
        codes = [kind.code for kind in RequestError.__subclasses__()]
        found = re.search(rf"({'|'.join(codes)}): .*", message, re.DOTALL)  # Triton may put words before it
        super().__init__("")
        if found is None:
            log.error("an error of another library: %s", message)
        self.args = (found.group() if found else f"INTERNAL: {UNTOLD}",)


class BundleError(GessoError):
    pass


class SettingsError(GessoError):
    pass


class ServeError(GessoError):
    pass


def as_request_error(error: BaseException) -> RequestError:
    """The one place where foreign errors become ours: anything that is not a RequestError is an internal one.

    Its words go to the log only: they may name paths, or the memory that another client's picture lies in.
    """
    if isinstance(error, RequestError):
        return error
    log.error("an error of another library", exc_info=error)
    return InternalError(f"{type(error).__name__}: {UNTOLD}")
