"""What Triton gives a Python model at its start. Without Triton's API, which only models can import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def model_parameters(args: Mapping[str, str]) -> dict[str, str]:
    """The parameters of the model's config."""
    config = json.loads(args["model_config"])
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def version_folder(args: Mapping[str, str]) -> Path:
    """Where the model's own files are."""
    return Path(args["model_repository"]) / args["model_version"]
