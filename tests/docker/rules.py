"""Rules for Dockerfiles: functions from a parsed Dockerfile to its complaints. Those with a number are hadolint's.

`test_dockerfiles.py` shows of each that it can complain. The real hadolint is run by hand (docs/deployment.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from docker.dockerfile import Dockerfile, Instruction, Stage, substitute

LABELS = {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses", "version", "revision")}
BASE = "org.opencontainers.image.base.name"
SECRET = re.compile(r"(TOKEN|PASSWORD|SECRET|CREDENTIAL|API_?KEY)", re.IGNORECASE)

Rule = Callable[[Dockerfile], list[str]]


def pinned_bases(file: Dockerfile) -> list[str]:
    """DL3006, DL3007: every base image has a tag or a digest, and not `latest`."""
    return [
        f"{image}: not pinned" for _, image in bases(file) if not re.search(r"@sha256:|:(?!latest$)[\w.-]+$", image)
    ]


def user_is_a_number(file: Dockerfile) -> list[str]:
    """DL3002, and stricter: the last USER is a uid that is not 0, so that Kubernetes can tell that it is not root."""
    last = file.final.last("USER")
    return [] if last and re.fullmatch(r"[1-9]\d*(:\d+)?", last.text) else ["the final stage ends as root or as a name"]


def no_sudo(file: Dockerfile) -> list[str]:
    """DL3004."""
    return [f"line {run.line}: sudo" for run in runs(file) if re.search(r"\bsudo\b", run.text)]


def apt_is_tidy(file: Dockerfile) -> list[str]:
    """DL3009, DL3015: no recommended packages, and no package lists left."""
    found = [run for run in runs(file) if "apt-get install" in run.text]
    bad = [run for run in found if "--no-install-recommends" not in run.text]
    left = [run for run in found if "rm -rf /var/lib/apt/lists" not in run.text]
    return [f"line {run.line}: recommended packages" for run in bad] + [f"line {run.line}: apt lists" for run in left]


def no_add(file: Dockerfile) -> list[str]:
    """DL3020: COPY, for files of ours."""
    return [f"line {each.line}: ADD" for each in every(file, "ADD") if "://" not in each.text]


def absolute_folders(file: Dockerfile) -> list[str]:
    """DL3000."""
    return [
        f"line {each.line}: WORKDIR {each.text}" for each in every(file, "WORKDIR") if not each.text.startswith("/")
    ]


def no_shell_around_the_server(file: Dockerfile) -> list[str]:
    """DL3025, and HEALTHCHECK: a shell as process 1 passes no SIGTERM on, and an image may have none."""
    texts = [(each.line, each) for keyword in ("CMD", "ENTRYPOINT") for each in every(file, keyword)]
    for check in every(file, "HEALTHCHECK"):
        if check.text != "NONE":
            texts.append((check.line, Instruction("CMD", check.text.removeprefix("CMD").strip(), {}, check.line)))
    return [f"line {line}: {each.text} is a shell's" for line, each in texts if each.exec_form() is None]


def pip_keeps_no_cache(file: Dockerfile) -> list[str]:
    """DL3042."""
    pip = re.compile(r"\bpip3?\b.*\s(install|wheel)\b")
    commands = [(run.line, text) for run in runs(file) for text in run.text.split("&&")]
    return [f"line {line}: pip" for line, text in commands if pip.search(text) and "--no-cache-dir" not in text]


def pip_is_constrained(file: Dockerfile) -> list[str]:
    """DL3013, our way: what pip installs is pinned in constraints.txt."""
    commands = [(run.line, text) for run in runs(file) for text in run.text.split("&&")]
    found = [(line, text) for line, text in commands if re.search(r"\bpip3?\b.*\binstall\b", text)]
    return [f"line {line}: pip install without --constraint" for line, text in found if "--constraint" not in text]


def pipes_fail(file: Dockerfile) -> list[str]:
    """DL4006: a pipe hides the failure of its first part."""
    return [f"line {run.line}: a pipe" for run in runs(file) if re.search(r"[^|]\|[^|]", run.text)]


def nothing_is_installed_in_the_final_stage(file: Dockerfile) -> list[str]:
    """No build tool is left where no RUN was: the last stage only copies."""
    return [f"line {each.line}: RUN in the final stage" for each in file.final.instructions if each.keyword == "RUN"]


def stops_by_sigterm(file: Dockerfile) -> list[str]:
    signal = file.final.last("STOPSIGNAL")
    return [] if signal and signal.text == "SIGTERM" else ["no STOPSIGNAL SIGTERM"]


def has_a_health_check(file: Dockerfile) -> list[str]:
    """Or says that it has none: HEALTHCHECK NONE."""
    return [] if file.final.last("HEALTHCHECK") else ["no HEALTHCHECK"]


def is_labelled(file: Dockerfile) -> list[str]:
    """OCI's labels, and the base image's name in them is the base image."""
    label = file.final.last("LABEL")
    pairs = label.pairs() if label else {}
    found = [f"label {name} is missing" for name in sorted({*LABELS, BASE} - set(pairs))]
    image = substitute(file.final.image, file.defaults())
    if BASE in pairs and pairs[BASE].removeprefix("docker.io/library/") != image:
        found.append(f"{BASE} is {pairs[BASE]}, the image {image}")
    return found


def no_secrets(file: Dockerfile) -> list[str]:
    """What ARG and ENV hold can be read in the image's history."""
    names = [each.text.partition("=")[0] for each in every(file, "ARG")]
    names += [name for each in every(file, "ENV") for name in each.pairs()]
    return [f"{name} looks like a secret" for name in names if SECRET.search(name)]


def bases(file: Dockerfile) -> Iterator[tuple[Stage, str]]:
    """The stages that start from an image and not from another stage."""
    names = {stage.name for stage in file.stages}
    for stage in file.stages:
        if stage.image not in names:
            yield stage, substitute(stage.image, file.defaults())


def every(file: Dockerfile, keyword: str) -> list[Instruction]:
    inside = [each for stage in file.stages for each in stage.instructions]
    return [each for each in (*file.arguments, *inside) if each.keyword == keyword]


def runs(file: Dockerfile) -> list[Instruction]:
    return every(file, "RUN")


RULES: tuple[Rule, ...] = (
    pinned_bases, user_is_a_number, no_sudo, apt_is_tidy, no_add, absolute_folders, no_shell_around_the_server,
    pip_keeps_no_cache, pip_is_constrained, pipes_fail, nothing_is_installed_in_the_final_stage, stops_by_sigterm,
    has_a_health_check, is_labelled, no_secrets,
)  # fmt: skip
