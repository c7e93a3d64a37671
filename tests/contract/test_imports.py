"""Who may import what: the arrows of the design, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from contract.conftest import ROOT

PACKAGES = {"export": "gesso_export", "python_backend": "gesso_backend", "client": "gesso_client"}
OURS = set(PACKAGES.values())
TRITON = "triton_python_backend_utils"  # given by Triton's stub, not installed

# Where a distribution brings modules of other names.
PROVIDES = {
    "pillow": {"PIL"},
    "tritonclient[grpc]": {"tritonclient", "grpc"},
    "onnxscript": {"onnxscript", "onnx_ir"},  # its own intermediate representation
}


def sources(folder: str) -> list[Path]:
    files = sorted((ROOT / folder / "src" / PACKAGES[folder]).rglob("*.py"))
    return [file for file in files if "model_repository" not in file.parts]  # a link; looked at in test_wire


def imported(file: Path) -> set[str]:
    """The top-level modules that a file imports, anywhere in it; for Triton's clients, type hints included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            assert node.module is not None
            names.add(node.module.partition(".")[0])
    return names


def foreign(folder: str) -> set[str]:
    """What a package imports that is neither itself nor in the standard library."""
    names = set().union(*(imported(file) for file in sources(folder)))
    return names - set(sys.stdlib_module_names) - {PACKAGES[folder]}


@pytest.mark.parametrize("folder", PACKAGES)
def test_packages_import_nothing_of_each_other(folder: str) -> None:
    """Guards the arrows: what they share is the bundle and the wire, and this folder holds them to it."""
    assert sources(folder)
    assert not foreign(folder) & OURS


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_import_is_a_declared_dependency(folder: str) -> None:
    """Guards an installation that works only beside the others'."""
    with (ROOT / folder / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    provided: set[str] = set()
    for requirement in project["dependencies"]:
        name = requirement.partition(">")[0].partition("=")[0].partition("<")[0].strip().lower()
        provided |= PROVIDES.get(name, {name.replace("-", "_")})
    assert foreign(folder) - {TRITON} <= provided


@pytest.mark.parametrize("folder", ["python_backend", "client"])
def test_neither_server_nor_client_knows_torch(folder: str) -> None:
    """Guards the process that serves, and the thin client, against gigabytes."""
    assert not foreign(folder) & {"torch", "diffusers", "transformers", "onnx", "safetensors"}


def test_only_the_triton_model_knows_tritons_python_api() -> None:
    """Guards everything else's being testable with no Triton."""
    knowing = {file for file in sources("python_backend") if TRITON in imported(file)}
    assert {file.parent.name for file in knowing} == {"triton"}
    assert {file.name for file in knowing} == {"inpaint.py", "once.py", "channel.py"}
    assert TRITON not in foreign("client") | foreign("export")


def test_preflight_needs_nothing_installed() -> None:
    """Guards the check that runs before anything is: on the system's Python, alone."""
    preflight = ROOT / "python_backend" / "src" / "gesso_backend" / "host" / "preflight.py"
    assert imported(preflight) <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("gesso_backend.serving.service", {"torch", "diffusers", "transformers", "onnxruntime", "grpc"}),
        ("gesso_backend.host.serve", {"torch", "diffusers", "onnxruntime", "grpc"}),
        ("gesso_client", {"torch", "onnxruntime", "gesso_backend"}),
        ("gesso_client.cli", {"torch", "onnxruntime", "gesso_backend"}),
    ],
)
def test_what_is_loaded_is_no_more_than_what_is_needed(module: str, unwanted: set[str]) -> None:
    """Guards start-up against what a dependency drags in, and engines that nobody asked for."""
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert not unwanted & set(loaded)
