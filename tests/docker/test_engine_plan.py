"""Which engines a workflow builds: every bundle for every GPU, less what is there under its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker import dockerfile
from docker.engine_plan import Bundle, Engine, Gpu, Listed, PlanError, engines, outputs, read

ROOT = Path(__file__).parents[2]
LIST = ROOT / ".github" / "engines.json"
LISTED = Listed(
    "11.1.0.106",
    (
        Bundle("a", "checkpoints/a", "fp16", ("--profile=p=1,2,3", "--refittable")),
        Bundle("b", "checkpoints/b", "fp32", ()),
    ),
    (Gpu("NVIDIA H100", "h100"), Gpu("NVIDIA L40S", "l40s")),
)


def keys(bundle: Bundle, gpu: Gpu) -> str:
    return f"{bundle.name}-u-{gpu.runner} unet\n{bundle.name}-v-{gpu.runner} vae_decoder"


def test_every_network_of_every_bundle_is_built_for_every_gpu() -> None:
    planned = engines(LISTED, keys)
    assert [each.key for each in planned[:4]] == ["a-u-h100", "a-v-h100", "a-u-l40s", "a-v-l40s"]
    assert len(planned) == 8
    assert planned[3] == Engine("a", "NVIDIA L40S", "l40s", "--profile=p=1,2,3 --refittable", "vae_decoder", "a-v-l40s")


def test_what_is_there_is_not_built_again() -> None:
    """Guards against hours of a GPU for engines that exist."""
    found = outputs(engines(LISTED, keys), exists=lambda name: name not in ("a-v-l40s", "b-u-h100"))
    assert [each["key"] for each in found["missing"]] == ["a-v-l40s", "b-u-h100"]
    assert len(found["all"]) == 8
    assert outputs(engines(LISTED, keys), exists=lambda name: True)["missing"] == []


@pytest.mark.parametrize("bad", ["", "k", "a/b unet", "warning: no GPU", "x" * 129 + " unet", "k unet\n\nk2 vae"])
def test_what_is_no_key_is_refused(bad: str) -> None:
    """Guards against a tool's warning taken for a key, and a key that cannot name an artefact."""
    with pytest.raises(PlanError, match="no engine key"):
        engines(LISTED, lambda bundle, gpu: bad)


def test_two_engines_with_one_key_are_refused() -> None:
    """Guards against engines of one GPU restored on another."""
    with pytest.raises(PlanError, match="has the key of"):
        engines(LISTED, lambda bundle, gpu: "same unet")


def test_a_list_with_an_unknown_field_is_refused() -> None:
    bundle = '{"name": "a", "checkpoint": "b", "precison": "fp16", "arguments": []}'
    with pytest.raises(PlanError, match="precison"):
        read('{"tensorrt": "1", "gpus": [], "bundles": [' + bundle + "]}")


def test_our_list_is_read_and_names_the_tensorrt_of_the_images() -> None:
    """Guards against keys of a TensorRT that nobody runs: everything would be built, and nothing found."""
    listed = read(LIST.read_text())
    assert listed.bundles
    assert listed.gpus
    assert all((ROOT / bundle.checkpoint).exists() for bundle in listed.bundles)
    for name in ("triton", "export"):
        stages = dockerfile.parse(ROOT / "docker" / f"{name}.Dockerfile").stages
        defaults = dict(dockerfile.argument_default(each) for stage in stages for each in stage.instructions
                        if each.keyword == "ARG")  # fmt: skip
        assert defaults["TENSORRT"] == listed.tensorrt
