"""How a server is set: one frozen dataclass, filled once from Triton's model parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from gesso_backend.errors import SettingsError
from gesso_backend.policy import POLICIES

# Files in the `control` folder: asked for by gesso-serve, and done by the service.
DRAIN, DRAINED = "drain", "drained"

ENGINES = ("onnxruntime", "tensorrt", "triton")
PROVIDERS = ("cpu", "cuda", "tensorrt")
NETWORK_BACKENDS = ("python", "onnxruntime", "tensorrt")
CHOICES = {
    "loop": ("batched", "plain"),
    "policy": POLICIES,
    "engine": ENGINES,
    "engine_fallback": ("none", "onnxruntime"),
    "network_backend": NETWORK_BACKENDS,
}


@dataclass(frozen=True)
class Settings:
    """Each default is written here only; `gesso-serve` options and config.pbtxt parameters use these names."""

    bundle: str = ""  # path of the bundle; empty: the environment variable GESSO_BUNDLE
    loop: str = "batched"  # or "plain": one request at a time, the reference
    policy: str = "srpt"  # who runs next: policy.POLICIES
    max_rows: int = 0  # rows in one denoiser or text encoder call; 0: what the profile says pays
    max_vae_rows: int = 0  # rows in one VAE call; 0: the same
    profile_seconds: float = 30.0  # spent on profiling a bundle that is new to this machine; 0: not at all
    max_queue: int = 256  # requests in the server at once, waiting or running; one more is told UNAVAILABLE
    max_input_mib: int = 2048  # pictures held by those requests, MiB
    threads: int = 0  # threads of the engine; 0: one per core
    engine: str = "onnxruntime"  # what runs the networks: ENGINES
    providers: str = "cpu"  # of ONNX Runtime, best first: PROVIDERS, with commas between
    device: int = 0  # number of the GPU
    engine_fallback: str = "none"  # for what TensorRT cannot run; or "onnxruntime", on the GPU
    batch_sizes: str = ""  # on a GPU, sizes that smaller batches may be padded to; empty: all to the largest
    weight_streaming_mib: int = 0  # device memory for the weights of engines that stream them; 0: TensorRT decides
    network_backend: str = "python"  # of Triton's, for the triton engine: NETWORK_BACKENDS
    network_gpus: str = ""  # GPUs on which the triton engine's denoiser has an instance, as "0,1"; empty: `device`
    cache_mib: int = 256  # what the text and VAE encoders said, kept for requests with the same prompt or picture; MiB
    response_cache_mib: int = 0  # whole answers, kept for requests equal in everything, the seed included; MiB
    stall_seconds: float = 600.0  # a network call longer than this counts as stuck
    drain_seconds: float = 20.0  # how long a stopping server lets running requests finish
    control: str = ""  # a folder through which gesso-serve asks the model to drain; empty: nobody asks

    def __post_init__(self) -> None:
        for name in ("max_queue", "max_input_mib"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: {getattr(self, name)} is below the minimum 1")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise SettingsError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for provider in self.provider_names:
            if provider not in PROVIDERS:
                raise SettingsError(f"providers: {provider!r} is not one of {', '.join(PROVIDERS)}")
        for name in ("batch_sizes", "network_gpus"):
            _numbers(name, getattr(self, name), least=1 if name == "batch_sizes" else 0)
        # An idle loop shows that it lives once a second: below two it could not be told from a stuck one.
        for name, least in (
            ("max_rows", 0), ("max_vae_rows", 0), ("profile_seconds", 0),
            ("threads", 0), ("stall_seconds", 2), ("drain_seconds", 0), ("device", 0), ("weight_streaming_mib", 0),
            ("cache_mib", 0), ("response_cache_mib", 0),
        ):  # fmt: skip
            if not getattr(self, name) >= least:  # NaN is not
                raise SettingsError(f"{name}: {getattr(self, name)} is below the minimum {least}")

    @property
    def provider_names(self) -> tuple[str, ...]:
        return tuple(self.providers.split(","))

    @property
    def on_gpu(self) -> bool:
        """Whether any network runs on a GPU."""
        backends = (self.engine, self.network_backend if self.engine == "triton" else "")
        return "tensorrt" in backends or self.provider_names != ("cpu",)

    @property
    def sizes(self) -> tuple[int, ...]:
        """`batch_sizes`, ascending."""
        return tuple(sorted(set(_numbers("batch_sizes", self.batch_sizes, least=1))))

    @property
    def denoiser_gpus(self) -> tuple[int, ...]:
        """`network_gpus`, or the one device."""
        return _numbers("network_gpus", self.network_gpus, least=0) or (self.device,)

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


def _numbers(name: str, text: str, least: int) -> tuple[int, ...]:
    """ "1,2,8" as numbers. Raises SettingsError naming the setting."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise SettingsError(f"{name}: {text!r} is no list of numbers of at least {least} with commas between")
    return tuple(map(int, parts))
