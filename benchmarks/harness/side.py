"""A side of a comparison in a process of its own, loaded once and called again and again, so that sides can alternate.

Standard library only: sides run in environments of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness.paths import ROOT

ANSWER = "answer: "  # what a library prints on standard output is none


def answer(call: Callable[[Any], Any]) -> None:
    """In the side's process: call it with each line of standard input, until there are no more."""
    for line in sys.stdin:
        print(f"{ANSWER}{json.dumps(call(json.loads(line)))}", flush=True)


@contextmanager
def side(
    module: str,
    *arguments: str,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Callable[[Any], Any]]:
    """The process of `python -m module`; call it with what is to be a line of JSON on its standard input, for what it
    answers.

    Raises RuntimeError when it ends instead.
    """
    command: Sequence[str] = [str(python), "-m", module, *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        questions, answers = process.stdin, process.stdout
        assert questions is not None
        assert answers is not None

        def call(question: Any) -> Any:
            questions.write(json.dumps(question) + "\n")
            questions.flush()
            for line in answers:
                if line.startswith(ANSWER):
                    return json.loads(line.removeprefix(ANSWER))
            raise RuntimeError(f"{' '.join(command)} ended without an answer")

        yield call
        questions.close()
