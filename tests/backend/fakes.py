"""A bundle in memory, networks of plain arithmetic, and a client that checks how it is answered."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gesso_backend.engines.engine import Engine, EngineSet
from gesso_backend.errors import RequestError
from gesso_backend.kinds import Kind, parse_bundle
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.diffusion import Diffusion
from gesso_backend.kinds.diffusion.samplers import SAMPLERS
from gesso_backend.kinds.diffusion.tokens import Tokens
from gesso_backend.serving.events import Event
from gesso_backend.serving.job import Job
from gesso_backend.serving.service import Service
from gesso_backend.settings import Settings

Arrays = dict[str, npt.NDArray[Any]]

STEPS = 3  # of `inpaint`
WAIT_SECONDS = 20.0  # how long anything in these tests may take before it counts as lost
TOKENS = 8


def _network(name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    def tensors(shapes: Mapping[str, Any]) -> dict[str, Any]:
        dtypes = {"input_ids": "int64", "clip_skip": "int64"}
        return {key: {"dtype": dtypes.get(key, "float32"), "shape": shape} for key, shape in shapes.items()}

    return {"file": f"{name}.onnx", "precision": "fp32", "inputs": tensors(inputs), "outputs": tensors(outputs)}


def manifest(in_channels: int = 9) -> dict[str, Any]:
    """bundle.json of a model whose latents are an eighth of its pictures. A fresh copy each time, to spoil at will."""
    b, h, w, lh, lw = "batch", "height", "width", "latent_height", "latent_width"
    networks = {
        "text_encoder": _network(
            "text_encoder", {"input_ids": [b, TOKENS], "clip_skip": [b]}, {"prompt_embeds": [b, TOKENS, 4]}
        ),
        "unet": _network(
            "unet",
            {"sample": [b, in_channels, lh, lw], "timestep": [b], "encoder_hidden_states": [b, "tokens", 4]},
            {"noise_pred": [b, 4, lh, lw]},
        ),
        "vae_encoder": _network("vae_encoder", {"sample": [b, 3, h, w]}, {"moments": [b, 8, lh, lw]}),
        "vae_decoder": _network("vae_decoder", {"latents": [b, 4, lh, lw]}, {"image": [b, 3, h, w]}),
    }
    files = [spec["file"] for spec in networks.values()] + ["tokenizer/tokenizer.json"]
    return copy.deepcopy(
        {
            "schema_version": 4,
            "kind": "diffusion",
            "name": "fake",
            "family": "stable-diffusion",
            "networks": networks,
            "denoiser": "unet",
            "native_inpainting": in_channels == 9,
            "scheduler": {"config": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1}},
            "vae": {"factor": 8, "latent_channels": 4, "scaling_factor": 0.5, "shift_factor": 0.25},
            "size": {"native": 64, "multiple": 8, "max_pixels": 128 * 128},
            "tokenizers": {
                "text_encoder": {
                    "file": "tokenizer/tokenizer.json", "max_length": TOKENS,
                    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
                },
            },
            "preview_rgb": {"matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], "bias": [0.0, 0.25, -0.25]},
            "parameters": {
                "prompt": {"type": "string", "max_bytes": 64},
                "negative_prompt": {"type": "string", "max_bytes": 64, "default": ""},
                "negative_prompt_strength": {"type": "float", "default": 1.0, "minimum": 0.0, "maximum": 2.0},
                "prompt_weighting": {"type": "bool", "default": False},
                "long_prompt": {"type": "bool", "default": True},
                "clip_skip": {"type": "int", "default": 0, "minimum": 0, "maximum": 1},
                "height": {"type": "int", "default": 32, "minimum": 16, "maximum": 256},
                "width": {"type": "int", "default": 48, "minimum": 16, "maximum": 256},
                "num_inference_steps": {"type": "int", "default": 3, "minimum": 1, "maximum": 200},
                "guidance_scale": {"type": "float", "default": 7.5, "minimum": 0.0, "maximum": 50.0},
                "guidance_rescale": {"type": "float", "default": 0.0, "minimum": 0.0, "maximum": 1.0},
                "strength": {"type": "float", "default": 1.0, "minimum": 0.0, "maximum": 1.0},
                "scheduler": {
                    "type": "string", "default": "ddim",
                    "choices": [name for name in SAMPLERS if not name.startswith("flow_")],
                },
                "timestep_spacing": {"type": "string", "choices": ["leading", "linspace", "trailing"]},
                "timesteps": {"type": "ints", "minimum": 0, "maximum": 10000, "max_items": 200},
                "sigmas": {"type": "floats", "minimum": 0.0, "maximum": 1000.0, "max_items": 201},
                "eta": {"type": "float", "default": 0.0, "minimum": 0.0, "maximum": 1.0},
            },
            "task_defaults": {"image_to_image": {"strength": 0.8}},
            "source": {"checkpoint": "made up", "revision": None, "pipeline": "StableDiffusionInpaintPipeline"},
            "license": "unknown",
            "files": {name: {"sha256": "0" * 64, "bytes": 0} for name in files},
            "exporter": {"gesso_export": "0.1.0"},
            "options": {},
        }
    )  # fmt: skip


def fake_bundle(in_channels: int = 9) -> DiffusionBundle:
    bundle = parse_bundle(manifest(in_channels))
    assert isinstance(bundle, DiffusionBundle)
    return bundle


WORDS = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "?": 2}, "unk_token": "?"}


def tokenizer_json(**parts: Any) -> str:
    """A tokenizer.json of three tokens."""
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
    return json.dumps({"version": "1.0", "model": WORDS, "added_tokens": [], **dict.fromkeys(names), **parts})


def write_bundle(folder: Path) -> Path:
    """A bundle on disk that loads: the manifest and files that are what it says they are."""
    document = manifest()
    for name in document["files"]:
        content = f"content of {name}".encode()
        content = b"\x12" + bytes([len(content) - 2]) + content[2:]  # an ONNX file that only names its producer
        if name.endswith(".json"):
            content = tokenizer_json().encode()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


class FakeTokenizer:
    """A letter is a token."""

    def encode(self, pieces: Sequence[tuple[str, float]], max_chunks: int = 1, length: int | None = None) -> Tokens:
        text = "".join(piece for piece, _ in pieces)
        chunks = max(1, min(-(-len(text) // TOKENS), max_chunks))
        fits = text[: chunks * TOKENS]
        ids = [ord(letter) for letter in fits] + [2] * (chunks * TOKENS - len(fits))
        weights = [weight for piece, weight in pieces for _ in piece][: chunks * TOKENS]
        weights += [1.0] * (chunks * TOKENS - len(weights))
        shape = (chunks, TOKENS)
        return Tokens(np.reshape(ids, shape), np.array(weights, np.float32).reshape(shape), text[len(fits) :])


class FakeEngines(dict[str, Callable[..., Arrays]]):
    """Networks whose every output element is a few sums and products of its own row, so that they are exact in any
    batch. `before` is called with each call's network and inputs: it may wait, or raise. `calls` lists
    (network, inputs) of those that came through it.
    """

    def __init__(self, before: Callable[[str, Arrays], None] = lambda network, inputs: None) -> None:
        self.calls: list[tuple[str, Arrays]] = []
        for name in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
            self[name] = self._recorded(name, getattr(self, f"_{name}"), before)

    def rows(self, network: str) -> list[int]:
        """The rows of each call of a network."""
        return [len(next(iter(inputs.values()))) for name, inputs in list(self.calls) if name == network]

    def _recorded(
        self, name: str, network: Callable[..., Arrays], before: Callable[[str, Arrays], None]
    ) -> Callable[..., Arrays]:
        def engine(**inputs: npt.NDArray[Any]) -> Arrays:
            before(name, inputs)
            self.calls.append((name, inputs))
            return network(**inputs)

        return engine

    @staticmethod
    def _text_encoder(input_ids: npt.NDArray[Any], clip_skip: npt.NDArray[Any]) -> Arrays:
        width = np.arange(1, 5, dtype=np.float32)
        skipped = clip_skip[:, None, None].astype(np.float32)
        return {"prompt_embeds": input_ids[..., None].astype(np.float32) * width / np.float32(128) - skipped}

    @staticmethod
    def _unet(sample: npt.NDArray[Any], timestep: npt.NDArray[Any], encoder_hidden_states: npt.NDArray[Any]) -> Arrays:
        text = encoder_hidden_states[:, :2, 0].astype(np.float32)
        column = (slice(None), None, None, None)
        noise_pred = sample[:, :4] * np.float32(0.5) + text[:, 0][column] - text[:, 1][column] * sample[:, -4:]
        return {"noise_pred": noise_pred + timestep[column] * np.float32(2**-12)}

    @staticmethod
    def _vae_encoder(sample: npt.NDArray[Any]) -> Arrays:
        cells = sample[:, :, ::8, ::8]
        mean = np.concatenate([cells, cells[:, :1] - cells[:, 1:2]], axis=1)
        return {"moments": np.concatenate([mean, np.full_like(mean, -4.0)], axis=1)}

    @staticmethod
    def _vae_decoder(latents: npt.NDArray[Any]) -> Arrays:
        soft = latents[:, :3] / (np.float32(1) + np.abs(latents[:, :3]))  # inside [-1, 1]: no two pictures clip alike
        return {"image": np.repeat(np.repeat(soft, 8, axis=2), 8, axis=3)}


class Gate:
    """A `before` of FakeEngines: holds one call, the `nth` of `network`, until it is opened."""

    def __init__(self, network: str, nth: int = 1) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._network = network
        self._left = nth

    def __call__(self, network: str, inputs: Arrays) -> None:
        if network == self._network:
            self._left -= 1
            if self._left == 0:
                self.reached.set()
                assert self._open.wait(WAIT_SECONDS), "nobody opened the gate"

    def wait(self) -> None:
        """Until the call is held."""
        assert self.reached.wait(WAIT_SECONDS), "the call never came"

    def open(self) -> None:
        self._open.set()


class FakeClient:
    """The far end of a channel: what it heard, and the rules of how it may be spoken to."""

    only_image = False

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.finals: list[RequestError | None] = []  # exactly one in the end
        self.late: list[Event] = []  # what came after it: nothing ever should
        self.gone = False  # cancels
        self._answered = threading.Event()

    def send(self, event: Event) -> None:
        (self.late if self.finals else self.events).append(event)

    def close(self, error: RequestError | None) -> None:
        self.finals.append(error)
        self._answered.set()

    def cancelled(self) -> bool:
        return self.gone

    def wait(self) -> RequestError | None:
        """The final reply."""
        assert self._answered.wait(WAIT_SECONDS), "no final reply"
        assert len(self.finals) == 1
        return self.finals[0]

    def images(self) -> list[npt.NDArray[np.uint8]]:
        """The pictures, in the order of their index; fails when the request did."""
        assert self.wait() is None, self.finals
        images = sorted((event for event in self.events if event.event == "image"), key=lambda event: event.index)
        return [event.image for event in images]


class FakeClock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def engine_set(engines: Mapping[str, Engine] | EngineSet) -> EngineSet:
    return engines if isinstance(engines, EngineSet) else EngineSet.alike(engines, "fake")


@contextmanager
def serving(
    engines: Mapping[str, Callable[..., Arrays]] | EngineSet | None = None,
    *,
    bundle: DiffusionBundle | None = None,
    tokenizers: Any = None,
    kind: Kind[Any, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    **edges: Any,
) -> Iterator[Service]:
    """A running service of fakes, without caches unless asked.

    settings: fields of `Settings`; edges: further arguments of `Service`.
    """
    service = Service(
        kind or Diffusion(bundle or fake_bundle(), tokenizers or {"text_encoder": FakeTokenizer()}),
        engine_set(engines or FakeEngines()),
        Settings(**{"drain_seconds": WAIT_SECONDS, "cache_mib": 0, **(settings or {})}),
        **edges,
    )
    try:
        yield service
    finally:
        service.drain()


def inputs(**values: Any) -> Arrays:
    """A request's tensors as Triton delivers them, from plain values. Arrays are taken as they are."""
    dtypes = {int: np.int32, float: np.float32, bool: np.bool_}
    tensors: Arrays = {}
    for name, value in {"prompt": "a", **values}.items():
        if value is None:
            continue
        if isinstance(value, np.ndarray):
            tensors[name] = value
        elif isinstance(value, list):
            tensors[name] = np.array(value, dtypes[type(value[0])])
        elif isinstance(value, str):
            tensors[name] = np.array([value.encode()], np.object_)
        else:
            tensors[name] = np.array([value], np.int64 if name == "seed" else dtypes[type(value)])
    return tensors


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """[H, W, 3] of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def hole(height: int, width: int) -> npt.NDArray[np.uint8]:
    """[H, W] with the middle to repaint."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = 255
    return mask


def prepared(job: Job) -> bool:
    """Whether it stands at the loop's door."""
    return "prepare" in job.account.times()["timings_ms"]


def until(condition: Callable[[], object]) -> None:
    """Wait for another thread to have done its part."""
    give_up = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.002)


def inpaint(**values: Any) -> Arrays:
    """A request that calls every network: text encoder, VAE encoder twice, STEPS steps, VAE decoder."""
    return inputs(image=picture(32, 48), mask_image=hole(32, 48), num_inference_steps=STEPS, seed=11, **values)


def expected(**values: Any) -> bytes:
    """The bytes of `inpaint`'s picture on a server with nothing else to do."""
    client = FakeClient()
    with serving() as service:
        service.submit(inpaint(**values), client)
        return client.images()[0].tobytes()


def code(error: RequestError | None) -> str:
    return "OK" if error is None else error.code
