"""The ways to run the UNet that are compared. Standard library only: OpenVINO's side reads this in its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

UNET = "unet.onnx"


@dataclass(frozen=True)
class Variant:
    """`level` and `config` are ONNX Runtime's session options; `graph` is a file of the bundle."""

    title: str
    graph: str = UNET
    level: str = "ORT_ENABLE_ALL"
    arena: bool = True
    pattern: bool = True
    config: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    openvino: bool = False


VARIANTS = {
    "served": Variant("as it is served"),
    "spinning": Variant("threads spin while they wait", config={"session.intra_op.allow_spinning": "1"}),
    "spinning-in-calls": Variant(
        "threads spin while they wait within a call",
        config={"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"},
    ),
    "small-blocks": Variant("work cut into ever smaller blocks", config={"session.dynamic_block_base": "4"}),
    "basic": Variant("basic graph optimisations only", level="ORT_ENABLE_BASIC"),
    "extended": Variant("extended optimisations: no blocked (NCHWc) layout", level="ORT_ENABLE_EXTENDED"),
    "no-arena": Variant("no memory arena", arena=False),
    "no-pattern": Variant("no memory pattern", pattern=False),
    "denormals": Variant("denormals are zero", config={"session.set_denormal_as_zero": "1"}),
    "huge-pages": Variant("huge pages (glibc.malloc.hugetlb=1)",
                          environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    "attention": Variant("attention as one operator (MultiHeadAttention)", graph="unet.cpu.onnx"),
    "openvino": Variant("OpenVINO, same file, fp32", openvino=True),
}  # fmt: skip
