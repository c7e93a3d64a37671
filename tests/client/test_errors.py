"""Every error of the server's, of Triton's and of gRPC's becomes a typed one."""

from __future__ import annotations

import pickle

import grpc
import pytest

from gesso_client import errors
from gesso_client.errors import (
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    GessoError,
    InvalidRequest,
    NotFound,
    ServerError,
    Unavailable,
    from_server,
)

CONTRACT = {
    "INVALID_ARG": InvalidRequest,
    "NOT_FOUND": NotFound,
    "UNAVAILABLE": Unavailable,
    "CANCELLED": Cancelled,
    "DEADLINE": DeadlineExceeded,
    "INTERNAL": ServerError,
}


@pytest.mark.parametrize(("code", "kind"), CONTRACT.items())
@pytest.mark.parametrize("prefix", ["", "[request id: 7] ", "in ensemble 'x', "])
def test_every_code_of_the_contract_has_its_type(code: str, kind: type[GessoError], prefix: str) -> None:
    error = from_server(f"{prefix}{code}: num_inference_steps: 0 is below the minimum 1")
    assert type(error) is kind
    assert error.field == "num_inference_steps"
    assert error.text == "0 is below the minimum 1"
    assert str(error) == "num_inference_steps: 0 is below the minimum 1"
    plain = from_server(f"{prefix}{code}: The queue is full")
    assert (type(plain), plain.field, str(plain)) == (kind, None, "The queue is full")


def test_no_code_is_unmapped() -> None:
    """A code added on one side only would silently become a ServerError."""
    assert CONTRACT == errors.CODES
    assert {status.name for status in grpc.StatusCode} - {"OK"} == set(errors.GRPC_STATUSES)


@pytest.mark.parametrize("status", [status.name for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
def test_every_grpc_status_has_a_type(status: str) -> None:
    assert type(from_server("no words anybody knows", status)) is errors.GRPC_STATUSES[status]


@pytest.mark.parametrize(
    ("message", "kind", "field"),
    [
        ("unexpected inference input 'foo' for model 'inpaint'", InvalidRequest, "foo"),
        (
            "[request id: <id_unknown>] unexpected shape for input 'seed' for model 'inpaint'. Expected [1], got [2]. ",
            InvalidRequest,
            "seed",
        ),
        (
            "[request id: 1] inference input 'seed' data-type is 'FP32', but model 'inpaint' expects 'INT64'",
            InvalidRequest,
            "seed",
        ),
        ("[request id: 1] expected between 1 and 16 inputs but got 0 inputs for model 'inpaint'", InvalidRequest, None),
        ("Request for unknown model: 'nope' is not found", NotFound, "model"),
        ("Request for unknown model: 'inpaint' has no available versions", Unavailable, None),
        ("Stub process 'inpaint_0_0' is not healthy.", Unavailable, None),
        ("something new", ServerError, None),
    ],
)
def test_tritons_own_words_are_understood_without_a_status(
    message: str, kind: type[GessoError], field: str | None
) -> None:
    """A gRPC stream carries Triton's message but not its status. The messages are Triton 24.10's."""
    error = from_server(message)
    assert (type(error), error.field) == (kind, field)


def test_a_code_inside_grpcs_own_words_is_not_the_servers() -> None:
    """Seen with a gRPC client on Triton's HTTP port: retried as if the server had been busy."""
    words = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:8000: Socket closed"
    assert type(from_server(words, "UNAVAILABLE")) is ConnectionFailed
    assert type(from_server("UNAVAILABLE: the queue is full", "UNAVAILABLE")) is Unavailable


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidRequest), (404, NotFound), (429, Unavailable), (503, Unavailable), (504, DeadlineExceeded)],
)
def test_http_statuses_have_types(status: int, kind: type[GessoError]) -> None:
    assert type(from_server("", status)) is kind
    assert str(status) in str(from_server("", status))
    assert type(from_server("", 500)) is ServerError


def test_only_unavailable_is_retried() -> None:
    kinds = [InvalidRequest, NotFound, Unavailable, ConnectionFailed, Cancelled, DeadlineExceeded, ServerError]
    assert [kind for kind in kinds if kind.retryable] == [Unavailable]


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(InvalidRequest("is odd", "seed")))
    assert (str(error), error.field, error.text) == ("seed: is odd", "seed", "is odd")
