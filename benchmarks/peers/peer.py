"""Who is compared, at which sizes. Standard library only: the sides read this in environments of their own."""

from __future__ import annotations

from dataclasses import dataclass

GUIDANCE = 7.5


@dataclass(frozen=True)
class Size:
    side: int  # pixels
    steps: int


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    packages: tuple[str, ...] = ()  # of its own environment; none: gesso's serves it
    export: tuple[str, ...] = ()  # how its files are made from the checkpoint


SIZES = (Size(256, 8), Size(512, 3))
PEERS = (
    Peer("gesso", "gesso, through Triton and the SDK"),
    Peer("diffusers", "diffusers, eager"),
    Peer("compile", "diffusers, torch.compile"),
    Peer(
        "optimum",
        "optimum, ONNX Runtime",
        ("optimum-onnx==0.1.0", "torch==2.13.0", "transformers==4.57.3", "diffusers==0.35.2", "onnxruntime==1.31.0",
         "accelerate", "numpy<2"),
        ("optimum-cli", "export", "onnx", "--no-post-process", "--task", "inpainting"),
    ),
    Peer(
        "openvino",
        "OpenVINO GenAI",
        ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "torch==2.13.0", "transformers==4.57.3",
         "diffusers==0.35.2"),
        ("optimum-cli", "export", "openvino", "--weight-format", "fp32", "--task", "inpainting"),
    ),
)  # fmt: skip
