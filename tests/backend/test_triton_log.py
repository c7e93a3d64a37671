"""Reading Triton's log."""

from __future__ import annotations

import io
import sys

import pytest

from gesso_backend.host.triton_log import TritonLog, failure, tell


class HungUp(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_reader_who_left_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the drain after a hang-up, and a server whose log was piped into `head`: the first line that could not be
    written ended what wrote it, and Triton with a full pipe behind it."""
    monkeypatch.setattr(sys, "stderr", HungUp())
    tell("gesso-serve: stopping")
    log = TritonLog(io.StringIO("WARNING inpaint: one\nWARNING inpaint: two\n"), verbose=False)
    log.join(10)
    assert list(log.tail) == ["WARNING inpaint: one", "WARNING inpaint: two"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ERROR triton: failed to start HTTP service: Unavailable - Socket '[::1]:80' already in use ",
         "[::1]:80 is already in use; set --http-port"),
        ("ERROR triton: failed to start Metrics service: Internal - no such thing",
         "Triton cannot start its metrics service"),
        ("ERROR triton: failed to load 'a_unet' version 1: Invalid argument: no such file",
         "a_unet cannot be loaded: no such file"),
        ("ERROR triton: failed to load 'a' version 1: Internal: Stub process 'a_0_0' is not healthy.", None),
        ("ERROR inpaint: failed to load 'a' version 1: Internal: said by a model", None),
    ],
)  # fmt: skip
def test_why_a_start_failed_is_one_line(line: str, reason: str | None) -> None:
    """Guards the operator against Triton's four lines and a traceback; and a model that is only unlucky."""
    assert failure(line) == reason


def test_what_clients_cause_later_is_no_failed_start() -> None:
    """Guards against a request that makes Triton log such words."""
    started = 'I1121 00:46:04.9 3613 http_server.cc:1] "Started Metrics Service at 127.0.0.1:1"'
    words = "E1121 00:46:04.9 3613 x.cc:1] \"failed to load 'a' version 1: Internal: forged\""
    log = TritonLog(io.StringIO(f"{started}\n{words}\n"), verbose=False)
    log.join(10)
    assert log.opened
    assert log.failure is None
