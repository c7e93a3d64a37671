"""One network from torch to an ONNX file: dynamic batch, height and width; axis names as in the manifest."""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import torch

from gesso_export.errors import CheckpointError, first_line
from gesso_export.networks.module import NetworkModule
from gesso_export.networks.network import Network
from gesso_export.progress import quiet
from gesso_export.proof.reference import Arrays

OPSET = 20


def write(network: Network, module: NetworkModule, inputs: Arrays, path: Path) -> None:
    """Trace `module` on `inputs` and write `path`, with the weights in `<path>.data` beside it.

    Weights always stand in a file of their own: a graph over 2 GB cannot be one, and one rule is simpler than two.
    Raises CheckpointError for a module torch cannot trace.
    """
    program = _trace(network, module, inputs)
    traced = list(program.model.graph.initializers.values())
    with quiet():
        program.optimize()
    _strip_traces(program.model)
    onnx_ir.save(program.model, path, external_data=f"{path.name}.data")
    # The optimiser keeps the last graph it worked on, and what it replaced in it; let it not keep the weights.
    for value in [*traced, *program.model.graph.initializers.values()]:
        value.const_value = None


def _trace(network: Network, module: NetworkModule, inputs: Arrays) -> torch.onnx.ONNXProgram:
    module.prepare_for_tracing()
    tensors = tuple(torch.from_numpy(value) for value in inputs.values())
    axes = [
        {index: axis for index, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for spec in network.inputs.values()
    ]
    free = tuple(dict.fromkeys(names, torch.export.Dim.DYNAMIC) for names in axes)
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(module, tensors, dynamic_shapes=free, strict=False)
            program = torch.onnx.export(
                exported,
                tensors,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(network.inputs),
                output_names=list(network.outputs),
                dynamic_shapes=tuple(axes),
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # torch's tracer and translator raise all kinds
        raise CheckpointError(f"{network.name} cannot be traced: {first_line(error)}") from error
    for value, spec in zip(program.model.graph.outputs, network.outputs.values(), strict=True):
        value.shape = onnx_ir.Shape(spec.shape)  # torch names such an axis after its formula: (height//8)
    return program


def _strip_traces(model: onnx_ir.Model) -> None:
    """Drop the stack traces torch leaves on every node: they name files of this machine and double the graph."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
