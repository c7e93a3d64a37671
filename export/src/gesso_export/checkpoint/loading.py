"""Loading one component's weights into torch: local, safetensors only, float32, no code from the checkpoint."""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from gesso_export.checkpoint import bounds
from gesso_export.checkpoint.checkpoint import Component
from gesso_export.checkpoint.weights import Weights
from gesso_export.errors import CheckpointError, first_line
from gesso_export.progress import quiet

_MADV_PAGEOUT = 21  # <linux/mman.h>; the mmap module does not name it


def load_model(component: Component, weights: Weights) -> Any:
    """The component as a diffusers or transformers model on the CPU, in float32 whatever it is stored in.

    Raises CheckpointError when config and weights do not make a whole model.
    """
    model = open_model(component, weights)
    _upcast(model)
    return model.eval()


def open_model(component: Component, weights: Weights) -> Any:
    """The same with the weights as they are stored, mapped and not yet read.

    The libraries see a folder with the config's known keys and links to the weights, whatever those were called. Raises
    CheckpointError when config and weights do not make a whole model: a library would warn of a missing tensor and go
    on with random numbers in its place.
    """
    import diffusers
    import transformers

    library, dtype_option = {
        "diffusers": (diffusers, "torch_dtype"),
        "transformers": (transformers, "dtype"),
    }[component.library]
    options: dict[str, Any] = {dtype_option: weights.dtype()}
    if component.class_name == "T5EncoderModel":
        options["attn_implementation"] = "eager"  # the fused one cannot be exported with its position bias
    library.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        config = bounds.known(component.config(), component.class_name)
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        weights.link(Path(folder), "model" if component.library == "transformers" else "diffusion_pytorch_model")
        try:
            with quiet():
                model, info = getattr(library, component.class_name).from_pretrained(
                    folder,
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                    **options,
                )
        except Exception as error:  # what the libraries raise for a config that makes no network is of every kind
            why = first_line(error).replace(folder, component.name)
            raise CheckpointError(f"{component.name} cannot be loaded: {why}") from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{component.name}: the weights have no tensor {missing[0]}")
    return model


def _upcast(model: Any) -> None:
    """Turn half-precision weights into float32, one at a time.

    What is loaded is the mapped file. Its pages are given back as they are read, or the component would for a moment
    take its size in both precisions.
    """
    for parameter in model.parameters():
        stored = parameter.data
        if stored.dtype != torch.float32:
            parameter.data = stored.float()
            _page_out(stored)
    model.float()  # buffers


def _page_out(tensor: torch.Tensor) -> None:
    """Tell Linux that the pages of a mapped tensor are not needed now; a hint that loses nothing if it is ignored."""
    if sys.platform != "linux":
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)
