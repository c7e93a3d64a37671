"""Textual-inversion embeddings (arXiv:2208.01618): a token and its vectors, added to a text encoder and its tokenizer.

Read from safetensors alone, as diffusers writes them (one tensor) and as Stable Diffusion web UI does (`emb_params`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gesso_export.errors import CheckpointError, first_line

_WEB_UI_KEY = "emb_params"
MAX_VECTORS = 75  # more than a chunk of a prompt holds


@dataclass(frozen=True)
class Embedding:
    """What a prompt's `token` stands for."""

    token: str
    vectors: NDArray[np.float32]  # [vectors, hidden]

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
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors has no narrower error, and the file may not be there
        raise CheckpointError(f"embedding {token}: {path} cannot be read: {first_line(error)}") from error
    if _WEB_UI_KEY in tensors:
        tensors = {_WEB_UI_KEY: tensors[_WEB_UI_KEY]}
    if len(tensors) != 1:
        found = ", ".join(sorted(tensors)) or "nothing"
        raise CheckpointError(f"embedding {token}: expected one tensor, found {found}")
    (tensor,) = tensors.values()
    vectors = np.atleast_2d(tensor.float().numpy())
    if vectors.ndim != 2 or not 1 <= len(vectors) <= MAX_VECTORS:
        shape = list(tensor.shape)
        raise CheckpointError(f"embedding {token}: shape {shape} is not that of 1 to {MAX_VECTORS} vectors")
    if not np.isfinite(vectors).all():
        raise CheckpointError(f"embedding {token}: there is NaN or infinity in it")
    return Embedding(token, vectors)


def check(embeddings: Sequence[Embedding], hidden: int) -> None:
    """Raises CheckpointError for one that was trained for another text encoder, or a token that comes twice."""
    for embedding in embeddings:
        if embedding.vectors.shape[1] != hidden:
            width = embedding.vectors.shape[1]
            raise CheckpointError(f"embedding {embedding.token}: is {width} wide, the text encoder {hidden}")
    tokens = [token for embedding in embeddings for token in embedding.tokens]
    for token in tokens:
        if tokens.count(token) > 1:
            raise CheckpointError(f"embedding {token}: the token comes twice")


def extend(text_encoder: Any, embeddings: Sequence[Embedding]) -> Any:
    """Append the vectors to the rows of a CLIP text encoder's token table; returns the encoder."""
    import torch

    if embeddings:
        rows = [torch.from_numpy(embedding.vectors) for embedding in embeddings]
        table = torch.cat([text_encoder.embeddings.token_embedding.weight.data, *rows])
        text_encoder.embeddings.token_embedding = torch.nn.Embedding.from_pretrained(table)
    return text_encoder
