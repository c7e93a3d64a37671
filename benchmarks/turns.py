"""A side of a comparison in a process of its own, loaded and asked one thing at a time, so that sides can take turns.

Standard library only: sides run in environments of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

ANSWER = "answer: "  # what a library prints on standard output is none


def answer(value: Any) -> None:
    """In the side's process: what one line of its standard input asked for."""
    print(f"{ANSWER}{json.dumps(value)}", flush=True)


@contextmanager
def side(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Callable[[Any], Any]]:
    """The process; call it with what is to be a line of JSON on its standard input, for what it answers.

    Raises RuntimeError when it ends instead.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def ask(question: Any) -> Any:
            asked.write(json.dumps(question) + "\n")
            asked.flush()
            for line in answered:
                if line.startswith(ANSWER):
                    return json.loads(line.removeprefix(ANSWER))
            raise RuntimeError(f"{' '.join(command)} ended without an answer")

        yield ask
        asked.close()
