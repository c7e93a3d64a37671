"""The networks of a bundle as Triton models: their configs, and what each backend reads, written by gesso-serve."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from gesso_backend.engines.engine import EngineError
from gesso_backend.engines.tensorrt.plan import Machine, find
from gesso_backend.engines.triton import network_model_name
from gesso_backend.host.private import write_private
from gesso_backend.model.bundle import Bundle, TensorSpec
from gesso_backend.settings import Settings
from gesso_backend.triton.network import NETWORK, SHIM

BACKENDS = {"python": "python", "onnxruntime": "onnxruntime", "tensorrt": "tensorrt"}
PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


def write_networks(
    target: Path, name: str, folder: Path, bundle: Bundle, settings: Settings, machine: Machine | None = None
) -> list[str]:
    """Write a model for each network of `bundle` beside the model `name`; returns the names of those that have a
    Python process.

    machine: what the TensorRT backend runs on; asked of the GPU where it is not given. Raises EngineError.
    """
    written = []
    for network in bundle.networks:
        model = network_model_name(name, network)
        version = target / model / "1"
        version.mkdir(parents=True)
        (target / model / "config.pbtxt").write_text(_config(network, bundle, settings), encoding="utf-8")
        if settings.network_backend == "python":
            (version / "model.py").write_text(SHIM, encoding="utf-8")
            write_private(version, folder, Settings())
            written.append(model)
        elif settings.network_backend == "onnxruntime":
            _place_onnx(folder, bundle.networks[network].file, version)
        else:
            machine = machine or _machine(settings)
            _place(find(folder, bundle, network, machine).path, version / "model.plan")
    return written


def _config(network: str, bundle: Bundle, settings: Settings) -> str:
    """The batch is an axis like any other: the loop makes the batches, so Triton is to make none."""
    spec, backend = bundle.networks[network], settings.network_backend
    lines = [f'backend: "{BACKENDS[backend]}"']
    if backend in PLATFORMS:
        lines = [f'platform: "{PLATFORMS[backend]}"']
    lines.append("max_batch_size: 0")
    for what, ports in (("input", spec.inputs), ("output", spec.outputs)):
        lines += [_port(what, name, port) for name, port in ports.items()]
    if backend == "python" and settings.providers == "cpu":
        lines.append("instance_group [ { kind: KIND_CPU count: 1 } ]")
    else:
        gpus = settings.denoiser_gpus if bundle.networks[network].sees == "latents" else (settings.device,)
        lines.append(f"instance_group [ {{ kind: KIND_GPU count: 1 gpus: [ {', '.join(map(str, gpus))} ] }} ]")
    if backend == "python":
        for key, value in _parameters(network, settings).items():
            quoted = json.dumps(value, ensure_ascii=False)  # JSON's escapes are the text format's too
            lines.append(f'parameters {{ key: "{key}" value {{ string_value: {quoted} }} }}')
    return "\n".join(lines) + "\n"


def _parameters(network: str, settings: Settings) -> Mapping[str, str]:
    """What the shim has to know: its network, and the settings with ONNX Runtime in the place of Triton."""
    return {NETWORK: network, **dataclasses.replace(settings, engine="onnxruntime").to_parameters()}


def _port(what: str, name: str, port: TensorSpec) -> str:
    dims = ", ".join("-1" if isinstance(axis, str) else str(axis) for axis in port.shape)
    return f'{what} [ {{ name: "{name}" data_type: {TYPES[port.dtype]} dims: [ {dims} ] }} ]'


def _place_onnx(folder: Path, file: str, version: Path) -> None:
    """The graph under the backend's name for it, its weights under the name that the graph calls them by."""
    _place(folder / file, version / "model.onnx")
    for data in folder.glob(f"{file}.*"):
        _place(data, version / data.name)


def _place(source: Path, target: Path) -> None:
    """A hard link, else a copy: ONNX Runtime refuses weights behind a symbolic link that leaves the model's folder."""
    with contextlib.suppress(OSError):
        os.link(source.resolve(), target)
        return
    shutil.copyfile(source, target)


def _machine(settings: Settings) -> Machine:
    from gesso_backend.engines.tensorrt.device import Device, cuda_runtime

    device = Device(settings.device, cuda_runtime())
    version = os.environ.get("TRT_VERSION")  # set in NVIDIA's Triton images
    if not version:
        raise EngineError("network_backend: TRT_VERSION does not say which TensorRT this Triton has")
    return Machine(device.name, device.compute_capability, version.partition("+")[0])
