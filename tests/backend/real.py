"""A bundle that gesso-export wrote, opened as the server opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gesso_backend import bundle as bundles
from gesso_backend.bundle import Bundle
from gesso_backend.engines import Engine
from gesso_backend.engines.onnxruntime import load_engines
from gesso_backend.tokens import PromptTokenizer, open_tokenizers


@dataclass(frozen=True)
class Real:
    folder: Path
    bundle: Bundle
    tokenizers: Mapping[str, PromptTokenizer]
    engines: Mapping[str, Engine]

    @classmethod
    def open(cls, folder: Path) -> Real:
        bundle = bundles.load(folder)
        return cls(folder, bundle, open_tokenizers(folder, bundle.tokenizers), load_engines(folder, bundle))

    @property
    def tokenizer(self) -> PromptTokenizer:
        return self.tokenizers["text_encoder"]
