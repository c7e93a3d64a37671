"""The table `gesso-export inspect` prints."""

from __future__ import annotations

import math
from pathlib import Path

import onnx

from gesso_export.bundle.checked import KEY, checked
from gesso_export.bundle.manifest import Bundle, NetworkSpec, Parameter, ports
from gesso_export.errors import VerificationError, first_line


def summary(folder: Path, bundle: Bundle) -> str:
    """What a person wants to know of a bundle, from its manifest and the graphs' headers."""
    channels = bundle.networks[bundle.denoiser].inputs["sample"].shape[1]
    title = "UNet" if bundle.denoiser == "unet" else bundle.denoiser
    sampler = bundle.parameters["scheduler"]
    made_with = {package: version for package, version in bundle.exporter.items() if package != KEY}
    blocks = [
        ("name", bundle.name),
        ("family", bundle.family),
        ("inpainting", f"native ({channels}-channel {title})" if bundle.native_inpainting
                       else f"by blending latents (plain {title})"),
        ("size", f"{bundle.size.native} px native, multiples of {bundle.size.multiple}, "
                 f"up to {bundle.size.max_pixels / 1e6:.2f} MP"),
        ("prompt", ", ".join(f"{spec.max_length} tokens ({encoder})" for encoder, spec in bundle.tokenizers.items())),
        ("scheduler", f"{bundle.scheduler.config.get('_class_name', 'unnamed')}, "
                      f"predicts {bundle.scheduler.config.get('prediction_type', 'epsilon')}"),
        ("samplers", ", ".join(f"{name} (default)" if name == sampler.default else name
                               for name in sampler.choices or ())),
        ("source", f"{bundle.source.checkpoint}"
                   + (f" @ {bundle.source.revision}" if bundle.source.revision else "")
                   + f" ({bundle.source.pipeline})"),
        ("license", bundle.license),
        ("made with", ", ".join(f"{package} {version}" for package, version in made_with.items())),
        ("checked", checked(bundle)),
    ]  # fmt: skip
    lines = [f"{title:12} {text}" for title, text in blocks]
    lines += ["", f"{'network':14} {'precision':10} {'parameters':>12} {'size':>11}  inputs -> outputs"]
    lines += [_network(folder, bundle, name, network) for name, network in bundle.networks.items()]
    lines += ["", f"{'parameter':22} {'default':10} bounds"]
    lines += [_parameter(name, parameter) for name, parameter in bundle.parameters.items()]
    for task, defaults in bundle.task_defaults.items():
        lines.append(f"{task}: " + ", ".join(f"{name} {value}" for name, value in defaults.items()))
    return "\n".join(lines)


def _network(folder: Path, bundle: Bundle, name: str, network: NetworkSpec) -> str:
    size = sum(spec.bytes for file, spec in bundle.files.items() if file.startswith(network.file))
    both = f"{ports(network.inputs)} -> {ports(network.outputs)}"
    return f"{name:14} {network.precision:10} {_parameters(folder / network.file):>12,} {size / 1e6:>8,.1f} MB  {both}"


def _parameters(graph: Path) -> int:
    """How many weights a graph has, without reading them."""
    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, OSError
        raise VerificationError(f"{graph.name} cannot be read: {first_line(error)}") from error
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in floats)


def _parameter(name: str, parameter: Parameter) -> str:
    default = "" if parameter.default is None else repr(parameter.default)
    if parameter.choices is not None:
        bounds = "one of the samplers above"
    elif parameter.max_bytes is not None:
        bounds = f"up to {parameter.max_bytes} bytes"
    elif parameter.minimum is not None:
        bounds = f"{parameter.minimum} to {parameter.maximum}"
    else:
        bounds = parameter.type
    return f"{name:22} {default:10} {bounds}"
