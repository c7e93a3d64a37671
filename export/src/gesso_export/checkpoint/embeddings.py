"""Textual-inversion embeddings (arXiv:2208.01618): a token and its vectors, added to text encoders and tokenizers.

Read from safetensors alone: as diffusers writes them (one tensor), as Stable Diffusion web UI does (`emb_params`), and
those of SDXL, which has two text encoders, as kohya's scripts do (`clip_l` and `clip_g`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gesso_export.checkpoint.header import open_tensors, read_header
from gesso_export.errors import CheckpointError

_WEB_UI_KEY = "emb_params"
_SDXL_KEYS = ("clip_l", "clip_g")  # of the first and the second text encoder
LEGACY_EOS = 2  # in published configs; the id of the end is that of the last token
MAX_VECTORS = 75  # as many as a chunk of a prompt holds
_LARGEST = 2**20  # numbers of a file; 75 vectors of both of SDXL's encoders are 154,000


@dataclass(frozen=True)
class Embedding:
    """What a prompt's `token` stands for."""

    token: str
    vectors: NDArray[np.float32]  # [vectors, hidden]
    second: NDArray[np.float32] | None = None  # [vectors, hidden of the second text encoder]: SDXL's

    @property
    def tokens(self) -> list[str]:
        """A name for each vector, as diffusers names them; prompts say the first."""
        return [self.token, *(f"{self.token}_{number}" for number in range(1, len(self.vectors)))]


def read(argument: str) -> Embedding:
    """`TOKEN=FILE`. Raises CheckpointError for a file that is no embedding."""
    token, equals, file = argument.partition("=")
    if not equals or not token or token != "".join(token.split()):
        raise CheckpointError(f"--embedding {argument!r}: expected TOKEN=FILE, the token without spaces")
    path = Path(file)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"embedding {token}: {path.name} is not a .safetensors file; pickles are never read")
    try:
        header = read_header(path)
    except CheckpointError as error:
        raise CheckpointError(f"embedding {token}: {error}") from error
    if header.parameters > _LARGEST:
        raise CheckpointError(f"embedding {token}: {path.name} holds {header.parameters:,} numbers; it is no embedding")
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in header.shapes}
    if tensors.keys() == set(_SDXL_KEYS):
        first, second = (_vectors(token, tensors[key]) for key in _SDXL_KEYS)
        if len(first) != len(second):
            raise CheckpointError(f"embedding {token}: has {len(first)} vectors in clip_l and {len(second)} in clip_g")
        return Embedding(token, first, second)
    if _WEB_UI_KEY in tensors:
        tensors = {_WEB_UI_KEY: tensors[_WEB_UI_KEY]}
    if len(tensors) != 1:
        found = ", ".join(sorted(tensors)) or "nothing"
        raise CheckpointError(f"embedding {token}: expected one tensor, or clip_l and clip_g; found {found}")
    (tensor,) = tensors.values()
    return Embedding(token, _vectors(token, tensor))


def _vectors(token: str, tensor: Any) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = np.atleast_2d(tensor.float().numpy())
    if vectors.ndim != 2 or not 1 <= len(vectors) <= MAX_VECTORS:
        shape = list(tensor.shape)
        raise CheckpointError(f"embedding {token}: shape {shape} is not that of 1 to {MAX_VECTORS} vectors")
    if not np.isfinite(vectors).all():
        raise CheckpointError(f"embedding {token}: there is NaN or infinity in it")
    return vectors


def of_each_encoder(embeddings: Sequence[Embedding]) -> tuple[list[Embedding], list[Embedding]]:
    """SDXL's embeddings as those of its first and of its second text encoder.

    Raises CheckpointError for one that has no vectors for the second.
    """
    first, second = [], []
    for embedding in embeddings:
        if embedding.second is None:
            raise CheckpointError(
                f"embedding {embedding.token}: is of a model with one text encoder; SDXL's have clip_l and clip_g"
            )
        first.append(replace(embedding, second=None))
        second.append(replace(embedding, vectors=embedding.second, second=None))
    return first, second


def check(embeddings: Sequence[Embedding], hidden: int) -> None:
    """Raises CheckpointError for one that was trained for another text encoder, or a token that comes twice."""
    for embedding in embeddings:
        if embedding.second is not None:
            raise CheckpointError(f"embedding {embedding.token}: is of SDXL (clip_l and clip_g)")
        if embedding.vectors.shape[1] != hidden:
            width = embedding.vectors.shape[1]
            raise CheckpointError(f"embedding {embedding.token}: is {width} wide, the text encoder {hidden}")
    tokens = [token for embedding in embeddings for token in embedding.tokens]
    for token in tokens:
        if tokens.count(token) > 1:
            raise CheckpointError(f"embedding {token}: the token comes twice")


def extend(text_encoder: Any, embeddings: Sequence[Embedding]) -> Any:
    """Append the vectors to the rows of a CLIP text encoder's token table; returns the encoder.

    The summary of a text stays that of its end: published configs have transformers find it as the highest token, which
    new ones would be.
    """
    import torch

    if embeddings:
        table = text_encoder.get_input_embeddings().weight.data
        rows = [torch.from_numpy(embedding.vectors) for embedding in embeddings]
        text_encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(torch.cat([table, *rows])))
        inner = getattr(text_encoder, "text_model", text_encoder)
        if inner.eos_token_id == LEGACY_EOS:
            inner.eos_token_id = len(table) - 1
    return text_encoder
