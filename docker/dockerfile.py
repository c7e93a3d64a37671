"""Dockerfiles, parsed as far as gesso's own go: stages, instructions, variables. Standard library only.

Raises DockerfileError, which names the file and the line, on what it does not know: here documents, ONBUILD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BUILD = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "ADD", "RUN", "SHELL"}
KEYWORDS = BUILD | {"LABEL", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S+))?\s+")
_VARIABLE = re.compile(r"\$(?:(?P<plain>\w+)|\{(?P<name>\w+)(?::(?P<how>[-+])(?P<word>[^}]*))?\})")
_PAIR = re.compile(r'([\w.-]+)=("(?:[^"\\]|\\.)*"|\S*)')


class DockerfileError(Exception):
    """A Dockerfile that is not understood."""


@dataclass(frozen=True)
class Instruction:
    keyword: str
    text: str  # without keyword, flags and line continuations
    flags: Mapping[str, str]
    line: int

    def words(self) -> list[str]:
        """The exec form's list, or the words of the plain form."""
        return _exec_form(self.text) or self.text.split()

    def exec_form(self) -> list[str] | None:
        """The words of a JSON list; None when the text is a shell's."""
        return _exec_form(self.text)

    def pairs(self) -> dict[str, str]:
        """KEY=VALUE pairs of ENV and LABEL, unquoted."""
        return {key: value[1:-1] if value.startswith('"') else value for key, value in _PAIR.findall(self.text)}


@dataclass(frozen=True)
class Stage:
    image: str  # as written, variables and all
    name: str | None
    instructions: tuple[Instruction, ...]
    line: int

    def last(self, keyword: str) -> Instruction | None:
        return next((each for each in reversed(self.instructions) if each.keyword == keyword), None)


@dataclass(frozen=True)
class Dockerfile:
    path: Path
    arguments: tuple[Instruction, ...]  # the ARGs before the first FROM
    stages: tuple[Stage, ...]

    @property
    def final(self) -> Stage:
        return self.stages[-1]

    def defaults(self) -> dict[str, str]:
        """The defaults of the ARGs before the first FROM."""
        return dict(argument_default(each) for each in self.arguments)


def parse(path: Path) -> Dockerfile:
    instructions = [_instruction(path, line, text) for line, text in _logical_lines(path)]
    before: list[Instruction] = []
    stages: list[Stage] = []
    for each in instructions:
        if each.keyword == "FROM":
            image, *alias = each.text.split()
            if alias and (len(alias) != 2 or alias[0].upper() != "AS"):
                raise DockerfileError(f"{path}:{each.line}: FROM {each.text}")
            stages.append(Stage(image, alias[1] if alias else None, (), each.line))
        elif stages:
            last = stages[-1]
            stages[-1] = Stage(last.image, last.name, (*last.instructions, each), last.line)
        elif each.keyword == "ARG":
            before.append(each)
        else:
            raise DockerfileError(f"{path}:{each.line}: {each.keyword} before FROM")
    if not stages:
        raise DockerfileError(f"{path}: no FROM")
    return Dockerfile(path, tuple(before), tuple(stages))


def argument_default(instruction: Instruction) -> tuple[str, str]:
    """Name and default of an ARG; the default is empty when there is none."""
    name, _, value = instruction.text.partition("=")
    return name, value.strip('"')


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """$NAME, ${NAME}, ${NAME:-word} and ${NAME:+word}; an unknown name is empty."""

    def value(found: re.Match[str]) -> str:
        known = variables.get(found["plain"] or found["name"], "")
        if found["how"] == "-":
            return known or str(found["word"])
        if found["how"] == "+":
            return str(found["word"]) if known else ""
        return known

    return _VARIABLE.sub(value, text)


def _logical_lines(path: Path) -> list[tuple[int, str]]:
    """(first line's number, text) of each instruction, its continued lines joined and comments left out."""
    found: list[tuple[int, str]] = []
    start, parts = 0, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        start = start if parts else number
        parts.append(text.removesuffix("\\").rstrip())
        if not text.endswith("\\"):
            found.append((start, " ".join(parts)))
            parts = []
    if parts:
        raise DockerfileError(f"{path}:{start}: the last line is continued")
    return found


def _instruction(path: Path, line: int, text: str) -> Instruction:
    keyword, _, rest = text.partition(" ")
    keyword, rest = keyword.upper(), rest.strip()
    if keyword not in KEYWORDS or "<<" in rest:
        raise DockerfileError(f"{path}:{line}: not understood: {text}")
    flags: dict[str, str] = {}
    while keyword in ("FROM", "COPY", "ADD", "RUN", "HEALTHCHECK") and (flag := _FLAG.match(rest)):
        flags[flag[1]] = flag[2] or ""
        rest = rest[flag.end() :]
    return Instruction(keyword, rest, flags, line)


def _exec_form(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except json.JSONDecodeError:
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None
