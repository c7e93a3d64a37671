"""Clients that do not read what they asked for: Triton keeps it in its memory, and waits for ever if nobody hangs up.

Over HTTP the kernel hangs up when nothing of what was sent has been taken in for READER_SECONDS. Over gRPC a client
that does not even answer a ping is hung up on after as long; one that does, but reads nothing, only when its connection
is as old as one may be.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

READER_SECONDS = 60
CONNECTION_SECONDS = 600  # then a gRPC connection takes no new request; clients open another by themselves

LIBC = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438  # asm-generic/unistd.h; Python has no call for it


def grpc_flags(stream_seconds: float) -> dict[str, int]:
    """Of tritonserver, in milliseconds. stream_seconds: that a stream may last once its connection takes no new one."""
    return {
        "grpc-keepalive-time": READER_SECONDS * 500,
        "grpc-keepalive-timeout": READER_SECONDS * 500,
        "grpc-http2-max-pings-without-data": 0,
        "grpc-max-connection-age": round(min(CONNECTION_SECONDS, stream_seconds) * 1000),
        "grpc-max-connection-age-grace": round(stream_seconds * 1000),
        # Triton keeps requests for reuse, each with room for all the responses it once had: gigabytes, if they were.
        "grpc-infer-allocation-pool-size": 0,
    }


def mind(pid: int, say: Callable[[str], None]) -> None:
    """Hang up on the idle HTTP clients of a Triton that has just got ready, or `say` that it cannot be done here."""
    try:
        hang_up_on_idle(pid)
    except OSError as error:
        say(f"HTTP clients that do not read are not hung up on here ({error.strerror})")


def hang_up_on_idle(pid: int, seconds: float = READER_SECONDS) -> None:
    """Have the kernel end each connection made to a process from now on whose peer takes nothing in for so long.

    An option of the sockets it listens on, which those of its connections inherit; Triton has no flag for it. Raises
    OSError where one process may not touch the sockets of its child (a strict seccomp profile).
    """
    for listener in _listeners(pid):
        with listener:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def _listeners(pid: int) -> Iterator[socket.socket]:
    process = os.pidfd_open(pid)
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # files come and go
                if os.readlink(link).startswith("socket:") and (found := _opened(process, int(link.name))) is not None:
                    if _listens(found):
                        yield found
                    else:
                        found.close()
    finally:
        os.close(process)


def _opened(process: int, number: int) -> socket.socket | None:
    """Another process's socket, as ours too; None when it has been closed meanwhile."""
    copy = LIBC.syscall(PIDFD_GETFD, process, number, 0)
    if copy < 0:
        error = ctypes.get_errno()
        if error == errno.EBADF:
            return None
        raise OSError(error, os.strerror(error))
    return socket.socket(fileno=copy)


def _listens(found: socket.socket) -> bool:
    inet = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
    return inet and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
