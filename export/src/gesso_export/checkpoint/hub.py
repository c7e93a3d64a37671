"""Fetching a checkpoint from the Hugging Face hub: one pinned commit, JSON and safetensors, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from gesso_export.checkpoint.checkpoint import INDEX
from gesso_export.checkpoint.weights import belongs, best
from gesso_export.errors import HubError, first_line

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL = (".json", ".txt", ".model")  # configs, vocabularies, indexes
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FOLDERS = (
    "unet",
    "transformer",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "scheduler",
)


def is_hub_id(text: str) -> bool:
    """Whether `text` reads as owner/name."""
    return _HUB_ID.fullmatch(text) is not None


def fetch(repository: str, revision: str | None) -> Path:
    """Download what an export needs of `repository` at the commit `revision`, and return its directory.

    Raises HubError for a revision that is not a full commit id (a branch can change under us), and for whatever the
    hub answers.
    """
    if revision is None or not _COMMIT.fullmatch(revision):
        raise HubError(f"{repository} is a hub id: pin it with --revision and the 40 hex digits of a commit")
    import huggingface_hub

    try:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            return Path(huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True))
        names = huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted(names))
    except Exception as error:  # the hub's client raises its own, requests' and the system's errors
        raise HubError(f"{repository} cannot be fetched: {first_line(error)}") from error
    return Path(folder)


def wanted(names: Iterable[str]) -> list[str]:
    """Of a repository's files, those an export reads: configs, the tokenizer, and one set of weights per component.

    Repositories often hold the same weights many times over (pickles, half precision, without EMA); only the set
    `weights.find_weights` will choose is taken.
    """
    names = set(names)
    chosen = {INDEX} & names
    for folder in _FOLDERS:
        files = {name.removeprefix(f"{folder}/"): name for name in names if name.startswith(f"{folder}/")}
        chosen |= {name for file, name in files.items() if file.endswith(_SMALL) and "/" not in file}
        if weights := best(files):
            chosen |= {name for file, name in files.items() if file == weights or belongs(file, weights)}
    return sorted(chosen)
