"""Attention as one operator: a second graph of the denoiser, for ONNX Runtime on the CPU, on the same weights.

A network is exported in standard operators, which every engine reads. Written so, attention puts the whole matrix of
scores into memory four times over. `com.microsoft.MultiHeadAttention` works on blocks of it that stay in the cache;
only ONNX Runtime has it, so the graph that uses it stands beside the other: `unet.onnx` and `unet.cpu.onnx` share
`unet.onnx.data`. docs/cpu.md has the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gesso_export.progress import quiet

DOMAIN = "com.microsoft"

_HEADS_FIRST = [0, 2, 1, 3]  # [B, tokens, heads, width] <-> [B, heads, tokens, width]
_TRANSPOSED = [0, 1, 3, 2]


@dataclass(frozen=True)
class Attention:
    """softmax(query key^T scale) value over heads; all three [B, tokens, heads * width]."""

    inputs: tuple[onnx_ir.Value, ...]  # query, key, value
    heads: int
    scale: float
    last: onnx_ir.Node  # the Reshape whose output is the attention's


def write(path: Path, made: Path) -> int:
    """Write the second graph of the network in `path` to `made`, if there is attention to fuse; return how many were.

    made: in the same folder, for both name the same file of weights.
    """
    model = onnx_ir.load(path)
    fused = fuse(model)
    if fused:
        onnx_ir.save(model, made)
    return fused


def fuse(model: onnx_ir.Model) -> int:
    """Replace every attention without a mask; return how many. What does not look like one is left as it is."""
    found = [attention for node in model.graph if node.op_type == "Softmax" if (attention := _match(node))]
    for attention in found:
        _replace(model.graph, attention)
    if found:
        model.opset_imports[DOMAIN] = 1
        with quiet():
            RemoveUnusedNodesPass()(model)
    return len(found)


def _replace(graph: onnx_ir.Graph, attention: Attention) -> None:
    old = attention.last.outputs[0]
    node = onnx_ir.node(
        "MultiHeadAttention",
        attention.inputs,
        {"num_heads": attention.heads, "scale": attention.scale},
        domain=DOMAIN,
        name=f"{attention.last.name}_attention",
    )
    new = node.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    graph.insert_before(attention.last, node)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(attention.last, safe=True)


def _match(softmax: onnx_ir.Node) -> Attention | None:
    scores, weighted = _producer(softmax.inputs[0], "MatMul"), _only_user(softmax.outputs[0], "MatMul")
    back = _only_user(weighted.outputs[0], "Transpose", _HEADS_FIRST) if weighted is not None else None
    last = _only_user(back.outputs[0], "Reshape") if back is not None else None
    if scores is None or weighted is None or last is None or weighted.inputs[0] is not softmax.outputs[0]:
        return None
    query, query_scale = _unscaled(scores.inputs[0])
    key, key_scale = _unscaled(scores.inputs[1])
    heads_first = (query, _untransposed(key), weighted.inputs[1])
    joined = tuple(source for value in heads_first if (source := _joined(value)))
    widths = {_sizes(value) for value in heads_first}
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    if axis not in (-1, 3) or len(joined) != 3 or len(widths) != 1 or (sizes := widths.pop()) is None:
        return None
    output = last.outputs[0].shape
    if output is None or len(output) != 3 or output[2] != sizes[0] * sizes[1]:
        return None
    return Attention(joined, sizes[0], query_scale * key_scale, last)


def _unscaled(value: onnx_ir.Value | None) -> tuple[onnx_ir.Value | None, float]:
    """What is multiplied by a constant, and the constant."""
    product = _producer(value, "Mul")
    right = product.inputs[1] if product is not None else None
    factor = right.const_value if right is not None else None
    if product is None or factor is None or factor.size != 1:
        return value, 1.0
    return product.inputs[0], float(factor.numpy().reshape(()))


def _untransposed(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """[B, heads, width, tokens] -> the same with tokens before width.

    torch does it in three dimensions, between two reshapes of sizes known when it runs. That they give back a
    transposed key is not checked here; that the answers are the same ones is, by the verifier.
    """
    if direct := _producer(value, "Transpose", _TRANSPOSED):
        return direct.inputs[0]
    split = _producer(value, "Reshape")
    turned = _producer(split.inputs[0], "Transpose", [0, 2, 1]) if split is not None else None
    merged = _producer(turned.inputs[0], "Reshape") if turned is not None else None
    return merged.inputs[0] if merged is not None else None


def _joined(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """[B, heads, tokens, width] -> the [B, tokens, heads * width] it was split from."""
    turned = _producer(value, "Transpose", _HEADS_FIRST)
    split = _producer(turned.inputs[0], "Reshape") if turned is not None else None
    source = split.inputs[0] if split is not None else None
    sizes = _sizes(value)
    if source is None or source.shape is None or sizes is None or len(source.shape) != 3:
        return None
    return source if source.shape[2] == sizes[0] * sizes[1] else None


def _sizes(value: onnx_ir.Value | None) -> tuple[int, int] | None:
    """(heads, width) of [B, heads, tokens, width]."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    heads, width = value.shape[1], value.shape[3]
    return (heads, width) if isinstance(heads, int) and isinstance(width, int) else None


def _producer(value: onnx_ir.Value | None, op_type: str, perm: list[int] | None = None) -> onnx_ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and _is(node, op_type, perm) else None


def _only_user(value: onnx_ir.Value, op_type: str, perm: list[int] | None = None) -> onnx_ir.Node | None:
    users = value.uses()
    if len(users) != 1 or value.is_graph_output():
        return None
    node = next(iter(users)).node
    return node if _is(node, op_type, perm) else None


def _is(node: onnx_ir.Node, op_type: str, perm: list[int] | None) -> bool:
    if node.op_type != op_type or node.domain:
        return False
    return perm is None or list(node.attributes["perm"].as_ints()) == perm
