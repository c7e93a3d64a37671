"""The bundle: what the exporter writes, the backend reads, and the client is told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.conftest import OF_PICTURES
from gesso_backend.errors import RequestError
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.request import parse
from gesso_backend.kinds.diffusion.samplers import SAMPLERS, tabulate
from gesso_backend.model import bundle as backend_bundle
from gesso_backend.model.parameters import OWN, PARAMETERS
from gesso_backend.model.wire import INPUTS
from gesso_client import models as client_models
from gesso_client.errors import GessoError
from gesso_client.models import ModelInfo
from gesso_client.request import CLIENT_OPTIONS, Options
from gesso_client.transport.contract import PARAMETER
from gesso_export.bundle import manifest as export_manifest
from gesso_export.bundle import parameters as export_parameters


def plain(value: Any) -> Any:
    """Dataclasses, tuples and read-only mappings as JSON has them; absent where None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {key: plain(item) for key, item in fields.items() if item is not None}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_both_sides_read_the_same_out_of_one_manifest(exported: Path, bundle: DiffusionBundle) -> None:
    """Guards two parsers of one format against growing apart, field by field and value by value."""
    ours, theirs = plain(bundle), plain(export_manifest.read(exported))
    assert not OWN.keys() & theirs["parameters"].keys()
    assert ours == {**theirs, "parameters": {**theirs["parameters"], **plain(OWN)}}


def test_a_manifest_holds_nothing_that_is_not_read(exported: Path, bundle: DiffusionBundle) -> None:
    """Guards strictness on the real file: everything in it has a place in the backend's dataclasses."""

    def leaves(value: Any, path: str = "") -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}.{key}").items()}
        return {path: value} if value is not None else {}

    document = json.loads((exported / backend_bundle.MANIFEST).read_text(encoding="utf-8"))
    assert (
        leaves(document).keys()
        == leaves({**plain(bundle), "parameters": plain(export_manifest.read(exported))["parameters"]}).keys()
    )


def test_names_and_versions_agree() -> None:
    """Guards the constants that each side has to write for itself."""
    assert backend_bundle.MANIFEST == export_manifest.FILE_NAME
    assert backend_bundle.SCHEMA_VERSION == export_manifest.SCHEMA_VERSION == client_models.SCHEMA_VERSION
    assert PARAMETER == "gesso"
    source = Path(backend_bundle.__file__).parents[1].joinpath("triton/answering.py").read_text(encoding="utf-8")
    assert f'DESCRIPTION = "{PARAMETER}"' in source


def test_the_bundles_parameters_are_the_inputs_but_the_pictures(everything: dict[str, DiffusionBundle]) -> None:
    """Guards a parameter that is exported and cannot be sent, or can be sent and has no bounds."""
    scalars = [name for name in INPUTS if name not in ("image", "mask_image")]
    keywords = ["prompt", *(name for name in Options.__annotations__ if name not in CLIENT_OPTIONS)]
    assert sorted(everything) == sorted(scalars) == sorted(PARAMETERS) == sorted([*keywords, *OF_PICTURES])


def test_every_sampler_that_is_offered_is_served_and_the_other_way_round(bundle: DiffusionBundle) -> None:
    """Guards the list of schedulers, which two packages write."""
    flow = {name for name in SAMPLERS if name.startswith("flow_")}
    served = flow if bundle.family == "flux" else set(SAMPLERS) - flow
    assert set(export_parameters.SAMPLERS) | set(export_parameters.FLOW_SAMPLERS) == set(SAMPLERS)
    assert set(bundle.parameters["scheduler"].choices or ()) == served
    assert bundle.parameters["scheduler"].default in served
    for name in served:
        assert tabulate(name, bundle.scheduler.config, 10, mu=1.0).steps


CLIP_IN = {"input_ids", "clip_skip"}
UNET_IN = {"sample", "timestep", "encoder_hidden_states"}
TENSORS: dict[str, dict[str, tuple[set[str], set[str]]]] = {
    "stable-diffusion": {
        "text_encoder": (CLIP_IN, {"prompt_embeds"}),
        "unet": (UNET_IN, {"noise_pred"}),
    },
    "stable-diffusion-xl": {
        "text_encoder": (CLIP_IN, {"prompt_embeds"}),
        "text_encoder_2": (CLIP_IN, {"prompt_embeds", "text_embeds"}),
        "unet": (UNET_IN | {"text_embeds", "time_ids"}, {"noise_pred"}),
    },
    "flux": {
        "text_encoder": ({"input_ids"}, {"text_embeds"}),
        "text_encoder_2": ({"input_ids"}, {"prompt_embeds"}),
        "transformer": (UNET_IN | {"pooled_projections", "guidance"}, {"noise_pred"}),
    },
}


def test_every_networks_tensors_are_those_the_backend_calls(bundle: DiffusionBundle) -> None:
    """Guards the names at the seam between the exporter's graphs and the denoising loop."""
    names = {network: (set(spec.inputs), set(spec.outputs)) for network, spec in bundle.networks.items()}
    assert names == {
        **TENSORS[bundle.family],
        "vae_encoder": ({"sample"}, {"moments"}),
        "vae_decoder": ({"latents"}, {"image"}),
    }
    for spec in bundle.networks.values():
        for tensor in [*spec.inputs.values(), *spec.outputs.values()]:
            assert tensor.shape[0] == "batch"


# What the client is told


def test_the_client_understands_the_description(bundle: DiffusionBundle, info: ModelInfo) -> None:
    """Guards ModelInfo, on which the client's checks stand: every default and bound as the bundle has it."""
    assert (info.bundle, info.family, info.native_inpainting) == (bundle.name, bundle.family, True)
    assert (info.native_size, info.size_multiple, info.max_pixels) == dataclasses.astuple(bundle.size)
    assert info.tasks == ("inpaint", "image_to_image", "text_to_image")
    for name, spec in bundle.parameters.items():
        read = info.parameters[name]
        assert plain(read) == {"name": name, "datatype": read.datatype, **plain(spec)}  # test_wire.py has the datatypes
    assert info.default("strength", "image_to_image") == bundle.task_defaults["image_to_image"]["strength"]
    if "strength" not in bundle.task_defaults.get("inpaint", {}):
        assert info.default("strength", "inpaint") == bundle.parameters["strength"].default
    assert info.default("seed", "inpaint") is None
    assert info.default("mask_feather", "inpaint") == bundle.parameters["mask_feather"].default


def wire(name: str, value: Any, info: ModelInfo) -> Any:
    items = value if isinstance(value, list) else [value]
    return np.array([item.encode() if isinstance(item, str) else item for item in items], info.parameters[name].dtype)


@pytest.mark.parametrize("end", ["minimum", "maximum"])
def test_beyond_a_bound_client_and_server_say_the_same(end: str, bundle: DiffusionBundle, info: ModelInfo) -> None:
    """Guards one rule with two homes: what the client lets through the server takes, and the words are one's own."""
    numbers = [parameter for parameter in info.parameters.values() if parameter.type not in ("string", "bool")]
    assert numbers
    for parameter in numbers:
        name = parameter.name
        if (name, end) == ("seed", "maximum"):  # beyond it int64 ends
            continue
        beyond = getattr(parameter, end) + (-1 if end == "minimum" else 1)
        beyond = [beyond] * (parameter.min_items or 1) if parameter.is_list else beyond
        with pytest.raises(GessoError) as ours:
            parameter.check(beyond)
        with pytest.raises(RequestError) as theirs:
            parse({"prompt": wire("prompt", "", info), name: wire(name, beyond, info)}, bundle)
        assert (ours.value.text, ours.value.field) == (theirs.value.text, theirs.value.field)


@pytest.mark.parametrize(
    ("name", "value"), [("scheduler", "none such"), ("prompt", "x" * 16385), ("negative_prompt", "ä" * 8193)]
)
def test_a_text_that_is_refused_is_refused_in_the_same_words(
    name: str, value: str, bundle: DiffusionBundle, info: ModelInfo
) -> None:
    """Guards the same for texts, type of the error included."""
    with pytest.raises(GessoError) as ours:
        info.parameters[name].check(value)
    with pytest.raises(RequestError) as theirs:
        parse({"prompt": wire("prompt", "", info), name: wire(name, value, info)}, bundle)
    assert (ours.value.text, ours.value.field) == (theirs.value.text, theirs.value.field)
    assert type(ours.value).__name__ == type(theirs.value).__name__
