"""A few lines of Triton's Python API: what triton_python_backend_utils gives a model, with Triton's rules checked."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np

from backend.fakes import WAIT_SECONDS

FINAL = 1


class FakeTensor:
    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._array


class FakeError:
    """Triton's codes, by the names its Python API gives them."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG = "unknown", "internal", "not found", "invalid"
    UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = "unavailable", "unsupported", "exists", "cancelled"

    def __init__(self, text: str, code: str = INTERNAL) -> None:
        self._text, self.code = text, code

    def message(self) -> str:
        return self._text


class FakeResponse:
    def __init__(self, output_tensors: Any = (), error: FakeError | None = None) -> None:
        self._outputs, self._error = list(output_tensors), error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> Any:
        return self._error

    def output_tensors(self) -> list[FakeTensor]:
        return self._outputs

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        return {tensor.name(): tensor.as_numpy() for tensor in self._outputs}


class FakeSender:
    """A response sender with Triton's rule: nothing after the final flag, not even a question."""

    def __init__(self) -> None:
        self.responses: list[FakeResponse] = []
        self.gone = False
        self.final = threading.Event()

    def send(self, response: FakeResponse | None = None, flags: int = 0) -> None:
        assert not self.final.is_set(), "a response after the final one"
        if response is not None:
            self.responses.append(response)
        if flags == FINAL:
            self.final.set()

    def is_cancelled(self) -> bool:
        assert not self.final.is_set(), "a closed sender was asked"
        return self.gone

    def wait(self) -> list[FakeResponse]:
        assert self.final.wait(WAIT_SECONDS), "no final response"
        return self.responses

    def error(self) -> str:
        (response,) = self.wait()
        assert response.has_error()
        return str(response.error().message())


class FakeRequest:
    def __init__(self, tensors: dict[str, Any], parameters: dict[str, Any] | None = None, timeout: int = 0) -> None:
        self.sender = FakeSender()
        self._tensors = [FakeTensor(name, array) for name, array in tensors.items()]
        self._parameters, self._timeout = parameters, timeout

    def get_response_sender(self) -> FakeSender:
        return self.sender

    def inputs(self) -> list[FakeTensor]:
        return self._tensors

    def parameters(self) -> str:
        return json.dumps(self._parameters) if self._parameters else ""

    def timeout(self) -> int:
        return self._timeout
