"""What all networks have in common: a torch module around one model of diffusers or transformers, and how it is run."""

from __future__ import annotations

from typing import Any

import torch

from gesso_export.proof.reference import Array, Arrays


class NetworkModule(torch.nn.Module):  # type: ignore[misc]
    """A wrapper around one diffusers or transformers model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def prepare_for_tracing(self) -> None:
        """Called once before the module is traced, after its reference outputs have been taken."""


def run(module: NetworkModule, inputs: Arrays) -> list[Array]:
    """What torch answers, on one thread: on more, its last bits, and so the bundle's hash, depend on how many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            answer = module(*(torch.from_numpy(value) for value in inputs.values()))
    finally:
        torch.set_num_threads(threads)
    return [tensor.numpy() for tensor in (answer if isinstance(answer, tuple) else (answer,))]
