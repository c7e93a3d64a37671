"""What `gesso-export check-architecture` does: our networks at the size of the published models, without their weights.

On torch's meta device a network has shapes and no values: twelve billion parameters are built, and run at every size,
in a second and in no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gesso_export import families
from gesso_export.bundle.manifest import ports
from gesso_export.bundle.tensor import BATCH, HEIGHT, LATENT_HEIGHT, LATENT_WIDTH, WIDTH
from gesso_export.checkpoint.checkpoint import Component
from gesso_export.errors import CheckpointError, VerificationError, first_line
from gesso_export.networks.module import NetworkModule
from gesso_export.networks.network import Network
from gesso_export.progress import quiet
from gesso_export.published.models import MODELS, Count

HEADER = f"{'model':12}  {'network':14}  {'parameters':>14}  {'expected':>14}  {'source':9}  ok   inputs -> outputs"


@dataclass(frozen=True)
class Finding:
    """What came of one network."""

    model: str
    network: Network
    parameters: int
    expected: Count
    fault: str | None  # what is not as it should be

    def __str__(self) -> str:
        source = "published" if self.expected.published else "computed"
        both = f"{ports(self.network.inputs)} -> {ports(self.network.outputs)}"
        return (
            f"{self.model:12}  {self.network.name:14}  {self.parameters:>14,}  {self.expected.parameters:>14,}  "
            f"{source:9}  {'no ' if self.fault else 'yes'}  {both}"
        )


def check(names: Sequence[str]) -> Iterator[Finding]:
    """Of the published models of these names, or of all, every network in turn.

    Raises CheckpointError for an unknown name, and VerificationError after the last network if one has a fault, or for
    a config that is refused.
    """
    if unknown := [name for name in names if name not in MODELS]:
        raise CheckpointError(f"{unknown[0]!r} is no published model; those are {', '.join(MODELS)}")
    return _findings(names or list(MODELS))


def _findings(names: Sequence[str]) -> Iterator[Finding]:
    faults = []
    for name in names:
        model = MODELS[name]
        try:
            described = families.describe(model.checkpoint)
        except CheckpointError as error:
            faults.append(f"{name}: {error}")
            continue
        for network in described.networks:
            finding = _check(name, network, model.counts[network.name], described.size.native // described.vae.factor)
            if finding.fault:
                faults.append(f"{name}: {network.name}: {finding.fault}")
            yield finding
    if faults:
        raise VerificationError("; ".join(faults))


def _check(model: str, network: Network, expected: Count, native: int) -> Finding:
    """native: side of the latents of a picture of the model's own size."""
    with quiet(), torch.device("meta"), torch.inference_mode():
        try:
            module = network.wrap(build(network.component))
            module.prepare_for_tracing()
        except Exception as error:  # the libraries raise whatever their constructors stumble over
            return Finding(model, network, 0, expected, f"cannot be built: {first_line(error)}")
        parameters = sum(parameter.numel() for parameter in module.parameters())
        fault = None
        if parameters != expected.parameters:
            fault = f"has {parameters:,} parameters, not {expected.parameters:,}"
        for sizes in (*network.cases, _native_case(network, native)):
            fault = fault or _run(module, network, sizes)
    return Finding(model, network, parameters, expected, fault)


def build(component: Component) -> Any:
    """The diffusers or transformers model of a component's config, on torch's default device."""
    import diffusers
    import transformers

    if component.library == "diffusers":
        return getattr(diffusers, component.class_name).from_config(component.config()).eval()
    kind = getattr(transformers, component.class_name)
    return kind(kind.config_class.from_dict(component.config())).eval()


def _native_case(network: Network, latents: int) -> Mapping[str, int]:
    """Sizes of the free axes for one picture of the model's own size."""
    traced = network.cases[0]
    side = latents * traced[HEIGHT] // traced[LATENT_HEIGHT]
    return {**traced, BATCH: 1, HEIGHT: side, WIDTH: side, LATENT_HEIGHT: latents, LATENT_WIDTH: latents}


def _run(module: NetworkModule, network: Network, sizes: Mapping[str, int]) -> str | None:
    """What is wrong with the answers at these sizes of the free axes, if anything."""
    inputs = [torch.empty(spec.at(sizes), dtype=getattr(torch, spec.dtype)) for spec in network.inputs.values()]
    try:
        answer = module(*inputs)
    except Exception as error:  # torch's own: shapes that do not go together
        return f"cannot be run at {dict(sizes)}: {first_line(error)}"
    answers = answer if isinstance(answer, tuple) else (answer,)
    if len(answers) != len(network.outputs):
        return f"has {len(answers)} outputs, not {len(network.outputs)}"
    for (name, spec), tensor in zip(network.outputs.items(), answers, strict=True):
        found, promised = (str(tensor.dtype), tuple(tensor.shape)), (f"torch.{spec.dtype}", spec.at(sizes))
        if found != promised:
            return f"{name} is {found}, not {promised}, at {dict(sizes)}"
    return None
