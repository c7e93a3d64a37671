"""What the wheels carry: people install these, not a clone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        (
            "python_backend",
            [
                "gesso_backend/model_repository/inpaint/config.pbtxt",
                "gesso_backend/model_repository/inpaint/1/model.py",
                "gesso_backend/model_repository/inpaint_once/config.pbtxt",
                "gesso_backend/model_repository/inpaint_once/1/model.py",
                "gesso_backend/py.typed",
            ],
        ),
        ("client", ["gesso_client/py.typed"]),
        ("export", ["gesso_export/py.typed", "gesso_export/checkpoint/clip_merges.txt.gz"]),
    ],
)
def test_a_wheel_has_all_that_its_package_reads(folder: str, files: list[str], tmp_path: Path) -> None:
    """Guards against a server installed from a wheel whose models have no configuration."""
    source = tmp_path / folder  # pip builds in the tree, and what an earlier build left there would be packed again
    shutil.copytree(ROOT / folder, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert set(files) <= set(archive.namelist())
        for name in files:
            if "model_repository" in name:
                assert archive.read(name) == (ROOT / name.removeprefix("gesso_backend/")).read_bytes()


def test_the_version_is_the_same_wherever_it_stands() -> None:
    """Guards a release that calls itself two things: each package's metadata, its
    `__version__`, and the tags of images."""
    found = {}
    for folder, package in (
        ("client", "gesso_client"),
        ("export", "gesso_export"),
        ("python_backend", "gesso_backend"),
    ):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        found[f"{folder}/pyproject.toml"] = project["version"]
        source = (ROOT / folder / "src" / package / "__init__.py").read_text()
        stated = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
        if stated is not None:
            found[f"{package}.__version__"] = stated[1]
    deployed = [ROOT / "compose.yaml", *(ROOT / "docker" / "kubernetes").rglob("kustomization.yaml")]
    for file in deployed:
        for number, tag in enumerate(re.findall(r"(?:newTag: |image: gesso-\w+:)(\S+)", file.read_text())):
            found[f"{file.relative_to(ROOT)} {number}"] = tag
    assert len(found) >= 9
    assert len(set(found.values())) == 1, found
