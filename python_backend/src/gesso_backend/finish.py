"""From the network's canvas back to the picture the client sent: the last step, in integers."""

from __future__ import annotations

import numpy as np
from PIL import Image

from gesso_backend import seam
from gesso_backend.mask import Pixels, composite
from gesso_backend.prepare import Prepared, to_picture


def paint(prepared: Prepared, work: Pixels) -> Pixels:
    """The output [H, W, 3] at the original size; where the mask is 0 it is the original, byte for byte.

    work: the canvas as the network drew it [8h, 8w, 3].
    """
    request, canvas = prepared.request, prepared.canvas
    if prepared.pixels is not None and prepared.repaint is not None and request.latent_blend:
        work = seam.close(work, to_picture(prepared.pixels), prepared.repaint[0, 0])
    painted = canvas.uncut(work)
    if request.image is None or prepared.alpha is None:
        return np.ascontiguousarray(painted)
    output = request.image.copy()
    canvas.crop(output)[:] = composite(canvas.crop(request.image), painted, canvas.crop(prepared.alpha))
    return output


def enlarge(prepared: Prepared, rgb: Pixels) -> Pixels:
    """A preview [h, w, 3] at latent size, as a canvas [8h, 8w, 3]."""
    canvas = prepared.canvas
    size = (canvas.work_width, canvas.work_height)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))
