"""The workflows: what they name is there, and they may do no more than they must."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FILES = sorted((GITHUB / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PATHS = re.compile(r"(?<![\w./$-])((?:docker|examples|export|benchmarks|\.ci|\.github)/[\w./-]*\w|compose\.yaml)")
WRITES = {"engines.yml": {"packages", "id-token", "attestations"}}
Workflow = dict[str, Any]


def load(path: Path) -> Workflow:
    return yaml.safe_load(path.read_text())


def steps(workflow: Workflow) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def scripts(workflow: Workflow) -> Iterator[str]:
    return (step["run"] for step in steps(workflow) if "run" in step)


def make_targets_exist(name: str, workflow: Workflow) -> list[str]:
    found = [target for text in scripts(workflow) for target in re.findall(r"\bmake ([a-z][a-z-]+)", text)]
    for job in workflow["jobs"].values():
        found += job.get("strategy", {}).get("matrix", {}).get("target", [])
    return [target for target in found if target not in TARGETS]


def paths_exist(name: str, workflow: Workflow) -> list[str]:
    texts = [*scripts(workflow), *(str(value) for step in steps(workflow) for value in step.get("with", {}).values())]
    texts += [step["uses"].removeprefix("./") for step in steps(workflow) if step.get("uses", "").startswith("./")]
    return [path for text in texts for path in PATHS.findall(text) if not (ROOT / path).exists()]


def actions_are_pinned(name: str, workflow: Workflow) -> list[str]:
    used = [step["uses"] for step in steps(workflow) if "uses" in step and not step["uses"].startswith("./")]
    return [each for each in used if not re.fullmatch(r"[\w.-]+/[\w./-]+@(v\d+(\.\d+){0,2}|[0-9a-f]{40})", each)]


def permissions_are_least(name: str, workflow: Workflow) -> list[str]:
    """Read-only for the whole file; writing only for a job that is known to need it."""
    found = [] if workflow.get("permissions") == {"contents": "read"} else ["the workflow's own"]
    for job, each in workflow["jobs"].items():
        writes = {scope for scope, level in each.get("permissions", {}).items() if level == "write"}
        found += [f"{job}: {scope}" for scope in writes - WRITES.get(name, set())]
    return found


def jobs_end(name: str, workflow: Workflow) -> list[str]:
    return [job for job, each in workflow["jobs"].items() if not each.get("timeout-minutes")]


def strangers_get_no_runner_of_ours(name: str, workflow: Workflow) -> list[str]:
    """A pull request's code runs on GitHub's machines only, and never with more rights than it has."""
    triggers = workflow[True]  # YAML 1.1 reads `on` as true
    found = ["pull_request_target"] if "pull_request_target" in triggers else []
    if "pull_request" in triggers:
        found += [job for job, each in workflow["jobs"].items() if "ubuntu" not in str(each["runs-on"])]
    return found


def scripts_are_not_templates(name: str, workflow: Workflow) -> list[str]:
    """What comes from outside reaches a script as a variable, not as its text."""
    return [text for text in scripts(workflow) if "${{" in text]


def checkouts_leave_no_token(name: str, workflow: Workflow) -> list[str]:
    found = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    return [str(step) for step in found if step.get("with", {}).get("persist-credentials") is not False]


Check = Callable[[str, Workflow], list[str]]
CHECKS: dict[Check, Callable[[Workflow], object]] = {
    make_targets_exist: lambda w: w["jobs"]["test"]["steps"].append({"run": "make coffee"}),
    paths_exist: lambda w: w["jobs"]["test"]["steps"].append({"run": "docker build -f docker/none.Dockerfile ."}),
    actions_are_pinned: lambda w: w["jobs"]["test"]["steps"].append({"uses": "actions/checkout@main"}),
    permissions_are_least: lambda w: w["jobs"]["test"].update(permissions={"contents": "write"}),
    jobs_end: lambda w: w["jobs"]["test"].pop("timeout-minutes"),
    strangers_get_no_runner_of_ours: lambda w: w["jobs"]["test"].update({"runs-on": ["self-hosted", "gpu"]}),
    scripts_are_not_templates: lambda w: w["jobs"]["test"]["steps"].append({"run": "echo ${{ github.head_ref }}"}),
    checkouts_leave_no_token: lambda w: w["jobs"]["test"]["steps"][0].pop("with"),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_workflows_keep_to(check: Check, path: Path) -> None:
    """Guards against a workflow that fails on its first run, or that hands out rights."""
    assert check(path.name, load(path)) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_can_complain(check: Check) -> None:
    workflow = copy.deepcopy(load(GITHUB / "workflows" / "ci.yml"))
    assert check("ci.yml", workflow) == []
    CHECKS[check](workflow)
    assert check("ci.yml", workflow)


def test_ci_runs_what_people_run() -> None:
    """Guards against a CI that tests something else than `.ci/run`."""
    job = load(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]


def test_engines_get_their_name_after_their_signature() -> None:
    """Guards against an artefact that stands under its key unsigned, and so is restored or never built again."""
    job = load(GITHUB / "workflows" / "engines.yml")["jobs"]["build"]
    order = [step.get("run", step.get("uses", "")) for step in job["steps"]]
    places = [next(i for i, text in enumerate(order) if word in text) for word in
              ("test -f", "oras push", "cosign sign", "attest-build-provenance", "oras tag")]  # fmt: skip
    assert places == sorted(places)


def test_a_restore_verifies_before_it_fetches() -> None:
    """Guards against engines of strangers: a plan is code that runs on the GPU's host."""
    (script,) = (
        step["run"]
        for step in load(GITHUB / "actions" / "restore-engines" / "action.yml")["runs"]["steps"]
        if "run" in step
    )
    places = [script.index(word) for word in ("oras resolve", "cosign verify", "gh attestation verify", "oras pull")]
    assert places == sorted(places)
    assert '@$digest"' in script.split("oras pull")[1]  # what was verified, not what the tag names by then
    assert "engines.yml@refs/heads/main" in script
