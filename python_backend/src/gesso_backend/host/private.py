"""What stands beside a model's model.py, where no client can read it: its bundle, and what is not for its config."""

from __future__ import annotations

import json
from pathlib import Path

from gesso_backend.settings import BESIDE, Settings

BUNDLE = "bundle"  # a link


def write_private(version: Path, folder: Path, settings: Settings) -> None:
    """Put a link to the bundle `folder`, and the settings that clients may not read, in `version`.

    Python in Triton takes no path with a letter outside ASCII, whatever the locale and PYTHONUTF8 say: it starts
    without either (triton-inference-server/server#6086). Behind the link the bundle has a name that it takes.
    """
    (version / BUNDLE).symlink_to(folder.resolve())
    private = {**settings.to_private(), "bundle": BUNDLE}  # ASCII, as all that json escapes is
    (version / BESIDE).write_text(json.dumps(private), encoding="ascii")
