"""From the network's canvas back to the picture the client sent: the last step, in integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from gesso_backend.arrays import Pixels, sha256
from gesso_backend.kinds.diffusion.prepared import Prepared
from gesso_backend.pixels import composite, seam


def paint(prepared: Prepared, work: Pixels) -> Pixels:
    """The output [H, W, 3] at the original size; where the mask is 0 it is the original, byte for byte.

    work: the canvas as the network drew it [8h, 8w, 3].
    """
    request, canvas = prepared.request, prepared.canvas
    if prepared.picture is not None and prepared.repaint is not None and request.latent_blend:
        work = seam.close(work, prepared.picture, prepared.repaint[0, 0])
    painted = canvas.uncut(work)
    if request.image is None or prepared.alpha is None:
        return np.ascontiguousarray(painted)
    output = request.image.copy()
    canvas.crop(output)[:] = composite.composite(canvas.crop(request.image), painted, prepared.alpha)
    return output


def enlarge(prepared: Prepared, rgb: Pixels) -> Pixels:
    """A preview [h, w, 3] at latent size, as a canvas [8h, 8w, 3]."""
    canvas = prepared.canvas
    size = (canvas.work_width, canvas.work_height)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))


def shrink(picture: Pixels, longest: int) -> Pixels:
    """A picture [H, W, 3] with a longer side of at most `longest` pixels."""
    height, width = shrunk(picture.shape[:2], longest)
    if (height, width) == picture.shape[:2]:
        return picture
    every = max(1, max(picture.shape) // (2 * longest))  # of a large one a sample will do
    sample = np.ascontiguousarray(picture[::every, ::every])
    return np.asarray(Image.fromarray(sample).resize((width, height), Image.Resampling.BOX))


def shrunk(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    """(height, width) of a picture of `size` that is shrunk."""
    height, width = size
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def report(prepared: Prepared, output: Pixels, index: int) -> dict[str, Any]:
    """How picture `index` came about: parameters, sizes, and what the mask covers and left alone."""
    request, canvas = prepared.request, prepared.canvas
    top, left = request.offset
    found: dict[str, Any] = {
        "parameters": {**prepared.parameters, "seed": prepared.seed_of(index)},
        "working_size": [canvas.work_height, canvas.work_width],
        "crop": [canvas.top + top, canvas.left + left, canvas.height, canvas.width],
        "image_sha256": sha256(output),
        "warnings": list(prepared.warnings),
    }
    if request.image is not None and prepared.mask is not None:
        found["mask_coverage_pct"] = composite.coverage_pct(prepared.mask, request.height * request.width)
        found["changed_outside_mask"] = composite.changed_outside(request.image, output, prepared.mask)
        found["counted_by"] = "server"
    return found
