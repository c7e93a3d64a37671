"""`pytest --quick` on files of each kind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

FILES = {
    "plain": "def test_plain(): pass",
    "top": "import torch\ndef test_top(): pass",
    "through": "import original_layout\ndef test_through(): pass",
    "inside": "def test_inside():\n    import torch",
    "bundle": "def test_bundle(gesso_bundles): pass",
    "through_another": "import pytest\n@pytest.fixture\ndef made(fresh_bundles): ...\ndef test_made(made): pass",
    "server": "import pytest\n@pytest.mark.e2e\ndef test_server(): pass",
}


def test_only_what_needs_no_torch_and_no_bundle_runs_and_torch_cannot_be_imported(tmp_path: Path) -> None:
    """Guards `make test-quick` against growing slow again: by an import in a helper, or one inside a test."""
    for name, source in FILES.items():
        (tmp_path / f"test_{name}.py").write_text(source)
    (tmp_path / "conftest.py").write_text(
        "import pytest\npytest_plugins = ['quick']\n"
        "@pytest.fixture\ndef gesso_bundles(): ...\n@pytest.fixture\ndef fresh_bundles(): ...\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    e2e\n    slow\n    gpu\n")
    command = [sys.executable, "-m", "pytest", "--quick", "-ra", "-p", "no:cacheprovider", str(tmp_path)]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert "1 failed, 1 passed, 2 skipped, 3 deselected" in done.stdout, done.stdout
    assert "ImportError: torch may not be imported with --quick" in done.stdout
    assert re.search(r"SKIPPED \[2\] .*: needs torch\n", done.stdout)
