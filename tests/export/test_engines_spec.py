"""An engine is a function of its spec: keys, profiles, and what the command line makes of its words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gesso_export.bundle import manifest
from gesso_export.bundle.manifest import Bundle, TokenizerSpec
from gesso_export.errors import EngineError
from gesso_export.progress import Progress
from gesso_export.tensorrt import gpu, profiles
from gesso_export.tensorrt import spec as specs
from gesso_export.tensorrt.build import BuildSettings, build_all
from gesso_export.tensorrt.build import specs as specs_of
from gesso_export.tensorrt.spec import Options, Profile, ShapeRange, Spec

H100 = "NVIDIA H100 80GB HBM3"
SPEC = Spec(
    network="unet",
    source={"unet.onnx": "a" * 64, "unet.onnx.data": "b" * 64},
    precision="fp16",
    quantize=None,
    profiles=(Profile("native", {"sample": ShapeRange((1, 9, 64, 64), (8, 9, 64, 64), (8, 9, 64, 64))}),),
    options=Options(),
    gpu=H100,
    tensorrt="11.4.0.106",
)


def test_the_key_of_a_spec_never_changes() -> None:
    """Guards engines that people have built: a key that moves makes them all stale."""
    assert SPEC.key == "349467a9ea54f1a0-trt11.4.0.106-NVIDIA_H100_80GB_HBM3"
    assert specs.parse(SPEC.document()) == SPEC
    assert specs.parse(SPEC.document()).key == SPEC.key


def test_every_field_of_the_spec_changes_the_key() -> None:
    """Guards against 'an engine reused because a file of that name exists'."""
    shapes = SPEC.profiles[0].shapes["sample"]
    others: dict[str, list[Any]] = {
        "network": ["vae_decoder"],
        "source": [{**SPEC.source, "unet.onnx": "c" * 64}, {**SPEC.source, "unet.onnx.data": "c" * 64}],
        "precision": ["fp32"],
        "quantize": ["fp8", "int8"],
        "profiles": [
            (Profile("other", SPEC.profiles[0].shapes),),
            *[(Profile("native", {"sample": dataclasses.replace(shapes, **{field.name: (2, 9, 64, 64)})}),)
              for field in dataclasses.fields(ShapeRange)],
            (*SPEC.profiles, Profile("more", SPEC.profiles[0].shapes)),
        ],
        "options": [dataclasses.replace(SPEC.options, **{name: value}) for name, value in (
            ("refittable", True), ("weight_streaming", True), ("row_independence", False),
            ("optimization_level", 5), ("workspace_mib", 1024))],
        "gpu": ["NVIDIA L4", "NVIDIA H100 PCIe"],
        "tensorrt": ["11.4.0.107", "10.13.3.9"],
    }  # fmt: skip
    assert others.keys() == {field.name for field in dataclasses.fields(Spec)}
    assert len(others["options"]) == len(dataclasses.fields(Options))
    keys = [SPEC.key, *(dataclasses.replace(SPEC, **{n: v}).key for n, values in others.items() for v in values)]
    assert len(set(keys)) == len(keys)
    assert len({key.partition("-")[0] for key in keys}) == len(keys)  # by the hash, not by the name alone


def test_gpus_names_make_file_names() -> None:
    """Guards against slashes and spaces of a marketing department."""
    assert specs.machine_name("NVIDIA A100/80GB (SXM)", "10.13") == "trt10.13-NVIDIA_A100_80GB_SXM"


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "a=1x2x3", "a=1x2x3,1x2x3", "a=1x64,1x64,1x64", "=1x8x8,1x8x8,1x8x8",
             "a b=1x8x8,1x8x8,1x8x8", "a=1x8x8,1x8x8,1x8x8,1x8x8", "a=-1x8x8,1x8x8,1x8x8"],
)  # fmt: skip
def test_a_profile_that_is_none_is_refused_naming_the_flag(text: str) -> None:
    """Guards people against TensorRT's errors, ten minutes later."""
    with pytest.raises(EngineError, match=re.escape(f"--profile: {text!r} is not NAME=MIN,OPT,MAX")):
        profiles.parse(text)


@pytest.mark.parametrize("text", ["", "77", "77,76,80", "0,1,2", "1,b,3"])
def test_tokens_that_are_none_are_refused_naming_the_flag(text: str) -> None:
    """Guards the same."""
    with pytest.raises(EngineError, match="--tokens: "):
        profiles.parse_tokens(text)


@pytest.fixture
def sd(bundle: Path) -> Bundle:
    """The manifest of a Stable Diffusion inpainting model of 256 px."""
    return manifest.read(bundle)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (["a=2x64x64,1x64x64,4x64x64"], "--profile a: batch 2, 1, 4 does not rise from at least 1"),
        (["a=1x64x64,1x64x32,4x64x64"], "--profile a: width 64, 32, 64 does not rise"),
        (["a=1x64x64,1x68x64,4x72x64"], "--profile a: height 64, 68, 72: not all multiples of 8"),
        (["a=0x64x64,1x64x64,4x64x64"], "--profile a: batch 0, 1, 4 does not rise from at least 1"),
        (["a=2x64x64,2x64x64,4x64x64"], "--profile a: batch begins at 2; a request may have one row"),
        (["a=1x64x64,1x4096x4096,1x4096x4096"], "--profile a: 1x4096x4096 is beyond the bundle's"),
        (["a=1x64x64,1x64x64,1x64x64"] * 2, "--profile a: given twice"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_naming_it(sd: Bundle, asked: list[str], reason: str) -> None:
    """Guards the bundle's own bounds."""
    with pytest.raises(EngineError, match=re.escape(reason)):
        profiles.check([profiles.parse(text) for text in asked], sd)


def test_pixels_become_the_shapes_of_every_network(sd: Bundle) -> None:
    """Guards the factor between latents, which the UNet has, and pixels, which the VAE encoder has."""
    settings = BuildSettings(sizes=(profiles.parse("p=1x64x128,4x64x128,8x128x256"),), vae_batch=2)
    made = {spec.network: spec.profiles for spec in specs_of(sd, settings, H100, "11")}
    hidden = sd.networks["unet"].inputs["encoder_hidden_states"].shape[2]
    (unet,) = made["unet"]
    assert unet.shapes == {
        "sample": ShapeRange((1, 9, 8, 16), (4, 9, 8, 16), (8, 9, 16, 32)),
        "timestep": ShapeRange((1,), (4,), (8,)),
        "encoder_hidden_states": ShapeRange((1, 77, hidden), (4, 77, hidden), (8, 8 * 77, hidden)),
    }
    assert made["vae_encoder"][0].shapes == {"sample": ShapeRange((1, 3, 64, 128), (2, 3, 64, 128), (2, 3, 128, 256))}
    assert made["vae_decoder"][0].shapes == {"latents": ShapeRange((1, 4, 8, 16), (2, 4, 8, 16), (2, 4, 16, 32))}
    assert made["text_encoder"][0].shapes["input_ids"] == ShapeRange((1, 77), (4, 77), (8, 77))


def test_without_a_profile_there_is_one_for_the_native_size_and_one_for_any(sd: Bundle) -> None:
    """Guards the defaults; and a text encoder, to which all sizes are one, against being built for it twice."""
    made = {spec.network: spec for spec in specs_of(sd, BuildSettings(), H100, "11")}
    assert [profile.name for profile in made["unet"].profiles] == ["native", "any"]
    assert [profile.name for profile in made["text_encoder"].profiles] == ["native"]
    native = sd.size.native // sd.vae.factor
    assert made["unet"].profiles[0].shapes["sample"] == ShapeRange(
        (1, 9, native, native), (8, 9, native, native), (8, 9, native, native)
    )
    assert made["unet"].profiles[1].shapes["sample"].max[2] > native


def test_t5_takes_any_number_of_tokens(sd: Bundle) -> None:
    """Guards FLUX, whose prompts are not in CLIP's chunks."""
    port = manifest.TensorSpec("int64", ("batch", "tokens"))
    encoder = dataclasses.replace(sd.networks["text_encoder"], inputs={"input_ids": port})
    tokenizer = dataclasses.replace(sd.tokenizers["text_encoder"], max_length=512)
    assert isinstance(tokenizer, TokenizerSpec)
    flux = dataclasses.replace(
        sd, networks={**sd.networks, "text_encoder": encoder}, tokenizers={"text_encoder": tokenizer}
    )
    assert profiles.default_tokens(flux) == (1, 512, 512)


def test_only_the_denoiser_is_quantised(sd: Bundle) -> None:
    """Guards the small networks, which gain nothing by it."""
    made = specs_of(sd, BuildSettings(quantize="fp8"), H100, "11")
    assert {spec.network: spec.quantize for spec in made if spec.quantize} == {"unet": "fp8"}


def test_keys_are_printed_without_gpu_and_tensorrt(bundle: Path, gesso_export: Callable[..., tuple[int, str]]) -> None:
    """Guards the key that a build farm asks for before it rents a GPU."""
    asked = ("--gpu", H100, "--tensorrt-version", "11.4.0.106", "--print-key")
    code, output = gesso_export("engines", bundle, *asked, "--network", "unet")
    assert (code, len(output.splitlines())) == (0, 1)
    assert re.fullmatch(r"[0-9a-f]{16}-trt11\.4\.0\.106-NVIDIA_H100_80GB_HBM3 unet\n", output)
    assert gesso_export("engines", bundle, *asked, "--network", "unet") == (0, output)
    for more in (["--refittable"], ["--weight-streaming"], ["--quantize", "int8"], ["--no-row-independence"],
                 ["--profile", "a=1x64x64,1x64x64,1x64x64"], ["--tokens", "1,77,77"]):  # fmt: skip
        code, other = gesso_export("engines", bundle, *asked, "--network", "unet", *more)
        assert code == 0
        assert other != output
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--profile", "x"], "--profile: 'x' is not NAME=MIN,OPT,MAX"),
        (["--tokens", "x"], "--tokens: 'x' is not MIN,OPT,MAX"),
        (["--network", "unett", "--gpu", "x", "--tensorrt-version", "11"], "--network: 'unett' is not one of"),
        (["--vae-batch", "0"], "--vae-batch: 0 is too small"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_flag(
    bundle: Path, gesso_export: Callable[..., tuple[int, str]], words: list[str], reason: str
) -> None:
    """Guards against tracebacks."""
    code, output = gesso_export("engines", bundle, *words)
    assert (code, len(output.splitlines())) == (2, 1)
    assert reason in output


def test_an_interrupted_build_does_not_say_that_nothing_was_written(
    bundle: Path, gesso_export: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards people against building again what is there: networks are published one by one."""

    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gesso_export.tensorrt.command.main", interrupted)
    code, output = gesso_export("engines", bundle)
    assert (code, output) == (130, "gesso-export: interrupted; engines that were finished are in the bundle\n")


def test_the_denoiser_and_the_networks_of_pictures_are_known_by_what_the_manifest_says(sd: Bundle) -> None:
    """Guards the next family: `denoiser` says which is quantised, an axis says which has the VAE's rows."""
    names = {"unet": "denoiser", "vae_decoder": "painter"}
    renamed = dataclasses.replace(
        sd,
        denoiser="denoiser",
        networks={names.get(name, name): network for name, network in sd.networks.items()},
    )
    settings = BuildSettings(sizes=(profiles.parse("p=1x64x128,4x64x128,8x128x256"),), vae_batch=2, quantize="fp8")
    made = {spec.network: spec for spec in specs_of(renamed, settings, H100, "11")}
    assert {name for name, spec in made.items() if spec.quantize} == {"denoiser"}
    assert made["denoiser"].profiles[0].shapes["sample"].max == (8, 9, 16, 32)
    assert made["painter"].profiles[0].shapes["latents"].max == (2, 4, 16, 32)


class Cuda:
    """cuda.bindings.runtime, as far as it is asked."""

    def __init__(self, error: int = 0) -> None:
        self.error = error

    def cudaGetDeviceCount(self) -> Any:
        return self.error, 1

    def cudaGetErrorString(self, error: int) -> Any:
        return 0, b"no CUDA-capable device is detected"

    def cudaGetDeviceProperties(self, device: int) -> Any:
        class Properties:
            name, major, minor = H100.encode(), 9, 0

        return 0, Properties


def test_the_gpu_is_asked_for_its_name() -> None:
    """Guards the name that is in every key, and the error where there is none."""
    assert gpu.look(0, Cuda()) == gpu.Gpu(H100, "9.0")
    with pytest.raises(EngineError, match="--device: 1 is not there; this machine has 1"):
        gpu.look(1, Cuda())
    with pytest.raises(EngineError, match="no CUDA device can be used: no CUDA-capable device"):
        gpu.look(0, Cuda(100))


def test_nothing_wanted_is_nothing_done(tmp_path: Path) -> None:
    """Guards against an empty folder in the bundle."""
    assert build_all(tmp_path, [], 0, Progress(None)) == []
    assert list(tmp_path.iterdir()) == []
