"""How a server is set: one frozen dataclass, filled once from Triton's model parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from gesso_backend.errors import SettingsError

# Files in the `control` folder: asked for by gesso-serve, and done by the service.
DRAIN, DRAINED = "drain", "drained"


@dataclass(frozen=True)
class Settings:
    """Each default is written here only; `gesso-serve` options and config.pbtxt parameters use these names."""

    bundle: str = ""  # path of the bundle; empty: the environment variable GESSO_BUNDLE
    loop: str = "batched"  # or "plain": one request at a time, the reference
    max_rows: int = 8  # rows in one denoiser or text encoder call
    max_vae_rows: int = 1  # rows in one VAE call; they are large and batching them buys nothing on CPU
    max_queue: int = 256  # requests in the server at once, waiting or running; one more is told UNAVAILABLE
    max_input_mib: int = 2048  # pictures held by those requests, MiB
    threads: int = 0  # threads of the engine; 0: one per core
    stall_seconds: float = 600.0  # a network call longer than this counts as stuck
    drain_seconds: float = 20.0  # how long a stopping server lets running requests finish
    control: str = ""  # a folder through which gesso-serve asks the model to drain; empty: nobody asks

    def __post_init__(self) -> None:
        if self.loop not in ("batched", "plain"):
            raise SettingsError(f"loop: {self.loop!r} is not one of batched, plain")
        for name in ("max_rows", "max_vae_rows", "max_queue", "max_input_mib"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: {getattr(self, name)} is below the minimum 1")
        # An idle loop shows that it lives once a second: below two it could not be told from a stuck one.
        for name, least in (("threads", 0), ("stall_seconds", 2), ("drain_seconds", 0)):
            if not getattr(self, name) >= least:  # NaN is not
                raise SettingsError(f"{name}: {getattr(self, name)} is below the minimum {least}")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Settings:
        """Triton model parameters (all strings) as Settings. Raises SettingsError naming the key."""
        kinds: dict[str, type] = {field.name: type(field.default) for field in fields(cls)}
        values = {}
        for key, text in parameters.items():
            if key not in kinds:
                raise SettingsError(f"{key}: unknown setting; known are {', '.join(kinds)}")
            try:
                values[key] = kinds[key](text)
            except ValueError:
                raise SettingsError(f"{key}: {text!r} is not {kinds[key].__name__}") from None
        return cls(**values)

    def bundle_path(self) -> Path:
        """Where the bundle is. Raises SettingsError when nothing says so."""
        path = self.bundle or os.environ.get("GESSO_BUNDLE", "")
        if not path:
            raise SettingsError("bundle: not set; give the model a `bundle` parameter or set GESSO_BUNDLE")
        return Path(path)
