"""How a server is set: one frozen dataclass, filled once from Triton's model parameters.

Each field carries its default, the help of its `gesso-serve` option and what a value is held against; options and the
table of docs/api.md are made from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gesso_backend.errors import SettingsError
from gesso_backend.plugins import ENGINES, found

# Files in the `control` folder: asked for by gesso-serve, and done by the service.
DRAIN, DRAINED = "drain", "drained"

# Clients can read a model's config, so what is not for them stands in a file of this name beside its model.py.
BESIDE = "settings.json"
PRIVATE = ("bundle", "control", "verified")
BYTES_PER_PIXEL = 4  # of an image with its mask
REQUEST_BYTES = 2**20  # all else of a request: prompts and numbers

PROVIDERS = ("cpu", "cuda", "tensorrt")


@dataclass(frozen=True)
class Rule:
    """What a setting's value is held against, and its help; without help it is no option of gesso-serve."""

    help: str = ""
    minimum: float | None = None
    maximum: float = 1e6  # of numbers
    choices: Callable[[], Collection[str]] | None = None
    numbers: int | None = None  # a list of numbers of at least this, with commas between

    def check(self, name: str, value: Any) -> None:
        """Raises SettingsError naming key and value."""
        if self.minimum is not None and not value >= self.minimum:  # NaN is not
            raise SettingsError(f"{name}: {value} is below the minimum {self.minimum:g}")
        if self.minimum is not None and value > self.maximum:
            raise SettingsError(f"{name}: {value} is above the maximum {self.maximum:.0f}")
        if self.choices is not None and value not in self.choices():
            raise SettingsError(f"{name}: {value!r} is not one of {', '.join(self.choices())}")
        if self.numbers is not None:
            _numbers(name, value, self.numbers)


def _setting(default: Any, help: str = "", *, choices: Any = None, **rule: Any) -> Any:
    if choices is not None and not callable(choices):
        choices = (lambda fixed: lambda: fixed)(choices)
    return field(default=default, metadata={"rule": Rule(help, choices=choices, **rule)})


@dataclass(frozen=True)
class Settings:
    """`gesso-serve` options and config.pbtxt parameters use these names, but for the PRIVATE ones."""

    bundle: str = _setting("")  # path of the bundle; empty: the environment variable GESSO_BUNDLE
    verified: str = _setting("")  # the seal of the manifest whose files gesso-serve has just hashed
    loop: str = _setting(
        "batched", "batched, or plain: one request at a time, the reference", choices=("batched", "plain")
    )
    policy: str = _setting(
        "srpt",
        "srpt: shortest remaining work first, with aging; fifo: first come, first served; "
        "request-batches: whole requests in batches of 8, to compare with",
        choices=("srpt", "fifo", "request-batches"),
    )
    max_rows: int = _setting(
        0, "most rows in one denoiser or text encoder call; 0: what the profile says pays", minimum=0
    )
    max_vae_rows: int = _setting(0, "most rows in one VAE call; 0: what the profile says pays", minimum=0)
    profile_seconds: float = _setting(
        30.0, "spent on profiling a bundle that is new to this machine; 0: not at all", minimum=0
    )
    max_queue: int = _setting(256, "most requests in the server at once; one more is told UNAVAILABLE", minimum=1)
    max_input_mib: int = _setting(2048, "most MiB of pictures those may hold", minimum=1)
    max_image_pixels: int = _setting(
        2**25, "most pixels of one request's image; of a larger picture a piece can be sent", minimum=1, maximum=2**29
    )
    max_preview_mib: int = _setting(256, "most MiB of previews that one request may be sent", minimum=1)
    max_output_mib: int = _setting(
        2048, "most MiB that the requests in the server may be sent; one more is told UNAVAILABLE", minimum=1
    )
    threads: int = _setting(0, "threads of the engine; 0: one per core", minimum=0, maximum=1024)
    engine: str = _setting(
        "onnxruntime",
        "what runs the networks: onnxruntime, tensorrt (built by gesso-export engines) or triton",
        choices=lambda: found(ENGINES),
    )
    providers: str = _setting("cpu", "of ONNX Runtime, best first, with commas between: cpu, cuda, tensorrt")
    device: int = _setting(0, "number of the GPU", minimum=0)
    engine_fallback: str = _setting(
        "none", "for what TensorRT cannot run: none, or onnxruntime on the GPU", choices=("none", "onnxruntime")
    )
    batch_sizes: str = _setting(
        "", "on a GPU, sizes that smaller batches may be padded to, as 2,8; empty: all to the largest", numbers=1
    )
    weight_streaming_mib: int = _setting(
        0, "device memory for the weights of engines that stream them; 0: TensorRT decides", minimum=0
    )
    network_backend: str = _setting(
        "python", "of Triton, for --engine triton: python, onnxruntime or tensorrt",
        choices=("python", "onnxruntime", "tensorrt"),
    )  # fmt: skip
    network_gpus: str = _setting(
        "", "GPUs on which --engine triton has an instance of the denoiser, as 0,1; empty: --device", numbers=0
    )
    cache_mib: int = _setting(
        256, "MiB of encoded prompts and pictures kept for requests that repeat them; 0: none", minimum=0
    )
    response_cache_mib: int = _setting(
        0, "MiB of whole answers kept for requests that are equal, seed included; 0: none", minimum=0
    )
    # An idle loop shows that it lives once a second: below two it could not be told from a stuck one.
    stall_seconds: float = _setting(600.0, "a network call longer than this counts as stuck", minimum=2)
    stream_seconds: float = _setting(
        3600.0, "how long a gRPC stream may last at least; ten minutes later it is ended", minimum=1
    )
    drain_seconds: float = _setting(20.0, "how long running requests may finish on shutdown", minimum=0)
    control: str = _setting("")  # a folder through which gesso-serve asks the model to drain; empty: nobody asks

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            rule.check(name, getattr(self, name))
        for provider in self.provider_names:
            if provider not in PROVIDERS:
                raise SettingsError(f"providers: {provider!r} is not one of {', '.join(PROVIDERS)}")

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
    def limits(self) -> dict[str, int]:
        """What one request may hold, as clients are told: of its image in pixels, of all its tensors and of all its
        previews in bytes."""
        pixels = self.max_image_pixels
        return {
            "max_image_pixels": pixels,
            "max_request_bytes": pixels * BYTES_PER_PIXEL + REQUEST_BYTES,
            "max_preview_bytes": self.max_preview_mib * 2**20,
        }

    @property
    def denoiser_gpus(self) -> tuple[int, ...]:
        """`network_gpus`, or the one device."""
        return _numbers("network_gpus", self.network_gpus, least=0) or (self.device,)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Settings:
        """Triton model parameters (all strings) as Settings. Raises SettingsError naming the key."""
        kinds: dict[str, type] = {each.name: type(each.default) for each in fields(cls)}
        values = {}
        for key, text in parameters.items():
            if key not in kinds:
                raise SettingsError(f"{key}: unknown setting; known are {', '.join(kinds)}")
            try:
                values[key] = kinds[key](text)
            except ValueError:
                raise SettingsError(f"{key}: {text!r} is not {kinds[key].__name__}") from None
        return cls(**values)

    @classmethod
    def of_model(cls, parameters: Mapping[str, str], version: Path) -> Settings:
        """Those of a Triton model: its config's parameters, and what stands beside its model.py in `version`.

        Raises SettingsError naming the key.
        """
        beside = version / BESIDE
        private = json.loads(beside.read_text("ascii")) if beside.is_file() else {}
        if "bundle" in private:
            private["bundle"] = str(version / private["bundle"])
        return cls.from_parameters({**parameters, **private})

    def to_parameters(self) -> dict[str, str]:
        """Those that clients may read and that are not as by default, as model parameters."""
        return {name: text for name, text in self._changed().items() if name not in PRIVATE}

    def to_private(self) -> dict[str, str]:
        """Those that clients may not read and that are not as by default."""
        return {name: text for name, text in self._changed().items() if name in PRIVATE}

    def _changed(self) -> dict[str, str]:
        return {each.name: str(value) for each in fields(self) if (value := getattr(self, each.name)) != each.default}

    def bundle_path(self) -> Path:
        """Where the bundle is. Raises SettingsError when nothing says so."""
        path = self.bundle or os.environ.get("GESSO_BUNDLE", "")
        if not path:
            raise SettingsError("bundle: not set; let gesso-serve --repository write the model, or set GESSO_BUNDLE")
        return Path(path)


RULES: Mapping[str, Rule] = {each.name: each.metadata["rule"] for each in fields(Settings)}


def _numbers(name: str, text: str, least: int) -> tuple[int, ...]:
    """ "1,2,8" as numbers. Raises SettingsError naming the setting."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise SettingsError(f"{name}: {text!r} is no list of numbers of at least {least} with commas between")
    return tuple(map(int, parts))
