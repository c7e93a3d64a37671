"""The error tree: every error has a code that clients and Triton know, and nothing foreign gets out."""

from __future__ import annotations

import pytest

from gesso_backend import errors
from gesso_backend.errors import (
    ForwardedError,
    GessoError,
    InternalError,
    InvalidRequest,
    RequestError,
    as_request_error,
)

KINDS = RequestError.__subclasses__()
CODES = {"INVALID_ARG", "NOT_FOUND", "UNAVAILABLE", "CANCELLED", "DEADLINE", "INTERNAL"}


def test_every_error_of_the_module_is_in_the_tree_that_its_docstring_draws() -> None:
    """Guards the drawing, which is what readers trust."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, GessoError) for kind in kinds)
    for kind in kinds:
        assert errors.__doc__ is not None
        assert kind.__name__ in errors.__doc__


def test_the_codes_are_those_of_the_contract() -> None:
    """Guards against a code that no client maps."""
    assert {kind.code for kind in KINDS} == CODES
    assert all(code in (errors.__doc__ or "") for code in CODES)


def test_what_travels_is_code_field_and_text() -> None:
    """Guards the words that clients take apart."""
    assert str(InvalidRequest("seed", "is wrong")) == "INVALID_ARG: seed: is wrong"
    assert str(InternalError("broke")) == "INTERNAL: broke"


@pytest.mark.parametrize("foreign", [ValueError("x"), MemoryError(), KeyError("unet"), OSError(5, "io"), SystemExit(3)])
def test_foreign_errors_become_internal_and_their_words_go_to_the_log(
    foreign: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the one boundary: a library's words may name paths, or memory with other people's pictures in it."""
    error = as_request_error(foreign)
    assert str(error) == f"INTERNAL: {type(foreign).__name__}: the server's log says why"
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [foreign]


def test_our_own_errors_pass_unchanged() -> None:
    """Guards against wrapping: the field would be lost."""
    error = InvalidRequest("seed", "is wrong")
    assert as_request_error(error) is error


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_forwarded_error_says_the_same_words(code: str) -> None:
    """Guards inpaint_once, whose clients must read what inpaint said, whatever Triton put in front of it."""
    message = f"{code}: seed: is wrong\nsecond line: INTERNAL: no"
    assert str(ForwardedError(message)) == message
    assert str(ForwardedError(f"in ensemble: {message}")) == message


def test_a_forwarded_error_without_a_code_is_internal(caplog: pytest.LogCaptureFixture) -> None:
    """Guards Triton's own errors on that path: their words are the operator's."""
    assert str(ForwardedError("model is not ready")) == "INTERNAL: the server's log says why"
    assert "model is not ready" in caplog.text
