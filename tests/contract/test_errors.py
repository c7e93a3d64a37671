"""Every error the backend ends a request with is a typed exception in the client, its field and words intact."""

from __future__ import annotations

import pytest

from gesso_backend.errors import (
    Cancelled,
    DeadlineExceeded,
    ForwardedError,
    InternalError,
    InvalidRequest,
    NotFound,
    RequestError,
    Unavailable,
)
from gesso_client import errors as client
from gesso_client.errors import CODES, from_server

SENT: list[tuple[RequestError, type[client.GessoError]]] = [
    (InvalidRequest("mask_image", "size [1, 2] differs: 3"), client.InvalidRequest),
    (NotFound("scheduler", "'x' is not one of a, b"), client.NotFound),
    (Unavailable("the queue is full (256 requests)"), client.Unavailable),
    (Cancelled("the client cancelled"), client.Cancelled),
    (DeadlineExceeded("the request's time limit passed"), client.DeadlineExceeded),
    (InternalError("RuntimeError: no kernel: UNAVAILABLE: x"), client.ServerError),
    (ForwardedError("NOT_FOUND: scheduler: 'x' is not one of a, b"), client.NotFound),
]


def test_every_kind_of_error_is_looked_at_here() -> None:
    """Guards the list above against a kind that is added later."""
    assert {type(error) for error, _ in SENT} == set(RequestError.__subclasses__())


def test_the_client_maps_every_code_and_no_other() -> None:
    """Guards the table of codes."""
    assert set(CODES) == {kind.code for kind in RequestError.__subclasses__()}


@pytest.mark.parametrize(("error", "kind"), SENT, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("status", [None, "INTERNAL", "UNKNOWN", 400, 500])
@pytest.mark.parametrize("before", ["", "Failed to process the request(s) for model 'inpaint', message: "])
def test_each_error_arrives_as_its_type_with_field_and_text(
    error: RequestError, kind: type[client.GessoError], status: str | int | None, before: str
) -> None:
    """Guards the words on the way, over every transport: streams lose the status, and Triton puts its own in front."""
    arrived = from_server(f"{before}{error}", status)
    assert type(arrived) is kind
    code, _, words = str(error).partition(": ")
    assert code in CODES
    assert str(arrived) == words
    if not isinstance(error, ForwardedError):
        assert (arrived.field, arrived.text) == (error.field, error.text)


def test_only_unavailable_is_worth_another_try() -> None:
    """Guards retries: anything else would be computed twice, or refused twice."""
    assert [kind.__name__ for kind in CODES.values() if kind.retryable] == ["Unavailable"]
