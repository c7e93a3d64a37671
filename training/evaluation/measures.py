"""What is computed from pictures: closeness to the truth, texture, the seam at the mask's edge, OpenCV's own repair."""

from __future__ import annotations

import numpy as np

from training.scenes.masks import Mask
from training.scenes.scene import Pixels

# A scene has texture where the steepness of its luminance varies by this much under the mask (standard deviation, in
# levels per pixel): more than four times what the grain that lies over every scene gives, 0.56. Ridges, shores, clouds
# and foam pass; plain sky and sand do not.
TEXTURE = 2.5
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (BT.601)
RADII = (3, 5)  # pixels around the mask that OpenCV looks at
ROUNDING = 1 / 12  # variance of rounding to whole levels: no picture is closer than that


def psnr(picture: Pixels, truth: Pixels, mask: Mask | None = None) -> float:
    """Peak signal to noise ratio in dB, of the masked pixels only if there is a mask."""
    error = (picture.astype(np.float64) - truth) ** 2
    return float(10 * np.log10(255**2 / max((error if mask is None else error[mask]).mean(), ROUNDING)))


def texture(truth: Pixels, mask: Mask) -> float:
    """Standard deviation of the luminance's gradient magnitude under the mask, in levels per pixel."""
    down, across = np.gradient(truth @ np.array(LUMINANCE))
    return float(np.hypot(down, across)[mask].std())


def seam(picture: Pixels, mask: Mask) -> np.ndarray:
    """Absolute differences of the neighbouring pixels, left and right or above and below, that the mask's edge parts.

    Returns [N, 3], in levels.
    """
    levels = picture.astype(np.int16)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    steps = (levels[:, 1:] - levels[:, :-1])[across], (levels[1:] - levels[:-1])[down]
    return np.abs(np.concatenate(steps))


def opencv_psnr(image: Pixels, mask: Mask, truth: Pixels) -> dict[str, float]:
    """The best that each of OpenCV's two methods does on this picture, of all RADII; dB under the mask."""
    import cv2

    methods = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}
    holes = mask.astype(np.uint8) * 255
    return {
        name: max(psnr(cv2.inpaint(image, holes, radius, flag), truth, mask) for radius in RADII)
        for name, flag in methods.items()
    }
