"""A bundle that gesso-export wrote, opened as the server opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gesso_backend.engines import onnxruntime
from gesso_backend.engines.engine import Engine
from gesso_backend.kinds import open_bundle
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer, open_tokenizers
from gesso_backend.settings import Settings


@dataclass(frozen=True)
class Real:
    folder: Path
    bundle: DiffusionBundle
    tokenizers: Mapping[str, PromptTokenizer]
    engines: Mapping[str, Engine]

    @classmethod
    def open(cls, folder: Path) -> Real:
        bundle = open_bundle(folder)
        assert isinstance(bundle, DiffusionBundle)
        engines = onnxruntime.load(Settings(threads=1), folder, bundle).engines
        return cls(folder, bundle, open_tokenizers(folder, bundle.tokenizers), engines)

    @property
    def tokenizer(self) -> PromptTokenizer:
        return self.tokenizers["text_encoder"]
