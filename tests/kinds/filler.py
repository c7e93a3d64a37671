"""A second kind of model, to hold serving to what it says of itself: that it knows none.

It fills the masked part of a picture in one call. No prompt, no steps, no latents, no scheduler: what LaMa and its
like are. `gesso_filler-1.0.dist-info` beside this file is all that makes it known to a server that has this folder on
its path.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gesso_backend.arrays import Arrays, Floats, Pixels
from gesso_backend.call import Call
from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.kind import Kind, Life, Work
from gesso_backend.model import wire
from gesso_backend.model.bundle import Bundle
from gesso_backend.pixels import canvas as canvases
from gesso_backend.pixels import composite, mask
from gesso_backend.pixels.canvas import WHOLE_IMAGE, Canvas
from gesso_backend.pixels.pixels import to_network, to_picture

NETWORK = "filler"


@dataclass(frozen=True, kw_only=True)
class FillerBundle(Bundle):
    tasks: ClassVar[tuple[str, ...]] = ("inpaint",)


@dataclass(frozen=True)
class Request:
    image: Pixels  # [H, W, 3]
    mask_image: Pixels  # [H, W]
    mask_feather: int


@dataclass(frozen=True)
class Prepared:
    request: Request
    canvas: Canvas
    sample: Floats  # [1, 3, H, W] in [-1, 1]
    repaint: Floats  # [1, 1, H, W]; 1 repaints

    num_steps: ClassVar[int] = 0

    def seed_of(self, index: int) -> int:
        return 0


class Filler(Kind[Request, Prepared]):
    bundle_type = FillerBundle
    own_parameters = ("mask_feather",)

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @classmethod
    def open(cls, folder: Path, bundle: Bundle) -> Filler:
        return cls(bundle)

    def parse(self, inputs: Arrays) -> Request:
        values = wire.read(inputs, self.bundle.parameters)
        for name in ("image", "mask_image"):
            if values[name] is None:
                raise InvalidRequest(name, "missing")
        return Request(values["image"], values["mask_image"], values["mask_feather"] or 0)

    def prepare(self, request: Request) -> Prepared:
        height, width = request.mask_image.shape
        canvas = canvases.choose(height, width, request.mask_image, self.bundle.size, WHOLE_IMAGE)
        repaint = canvas.cut_mask(mask.binarise(request.mask_image))[None, None]
        return Prepared(request, canvas, to_network(canvas.cut(request.image)), repaint)

    def life(self, prepared: Prepared) -> Life:
        outputs = yield Call(NETWORK, {"sample": prepared.sample, "repaint": prepared.repaint}, step=True)
        return to_picture(outputs["image"])

    def work(self, prepared: Prepared) -> Work:
        return Work(NETWORK, 1, 1, (prepared.canvas.work_height, prepared.canvas.work_width))

    def paint(self, prepared: Prepared, pixels: Pixels) -> Pixels:
        request = prepared.request
        alpha = mask.feather(request.mask_image, request.mask_feather)
        return composite.composite(request.image, prepared.canvas.uncut(pixels), alpha)

    def preview(self, prepared: Prepared, pixels: Pixels) -> Pixels:
        return self.paint(prepared, pixels)

    def report(self, prepared: Prepared, output: Pixels, index: int) -> dict[str, Any]:
        request = prepared.request
        changed = composite.changed_outside(request.image, output, request.mask_image)
        return {"parameters": {"mask_feather": request.mask_feather}, "changed_outside_mask": changed, "warnings": []}


def manifest(files: dict[str, bytes]) -> dict[str, Any]:
    """bundle.json with these files: of the parts that a diffusion bundle has, most are not there."""
    picture = ["batch", 3, "height", "width"]
    inputs = {"sample": picture, "repaint": ["batch", 1, "height", "width"]}
    return {
        "schema_version": 4,
        "kind": "filler",
        "name": "filler",
        "networks": {
            NETWORK: {
                "file": "filler.onnx",
                "precision": "fp32",
                "inputs": {name: {"dtype": "float32", "shape": shape} for name, shape in inputs.items()},
                "outputs": {"image": {"dtype": "float32", "shape": picture}},
            }
        },
        "size": {"native": 64, "multiple": 8, "max_pixels": 1 << 20},
        "parameters": {},
        "task_defaults": {},
        "source": {"checkpoint": "made up", "revision": None, "pipeline": "none"},
        "license": "unknown",
        "files": {n: {"sha256": hashlib.sha256(b).hexdigest(), "bytes": len(b)} for n, b in files.items()},
        "exporter": {},
        "options": {},
    }


def write_bundle(folder: Path) -> Path:
    """A bundle on disk whose network paints the mean of the picture into the hole."""
    import onnx
    from onnx import TensorProto, helper

    def port(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, "height", "width"])

    one = helper.make_tensor("one", TensorProto.FLOAT, [1], np.ones(1, np.float32).tobytes(), raw=True)
    nodes = [
        helper.make_node("Sub", ["one", "repaint"], ["keep"]),
        helper.make_node("Mul", ["sample", "keep"], ["outside"]),
        helper.make_node("GlobalAveragePool", ["sample"], ["mean"]),
        helper.make_node("Mul", ["mean", "repaint"], ["inside"]),
        helper.make_node("Add", ["outside", "inside"], ["image"]),
    ]
    graph = helper.make_graph(nodes, NETWORK, [port("sample", 3), port("repaint", 1)], [port("image", 3)], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    files = {"filler.onnx": model.SerializeToString()}
    onnx.checker.check_model(model)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "bundle.json").write_text(json.dumps(manifest(files)))
    return folder
