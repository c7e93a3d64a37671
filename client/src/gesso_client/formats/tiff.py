"""TIFF (revision 6.0): what Pillow leaves undone where levels have more than 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image as PILImage

BITS, PHOTOMETRIC = 0x0102, 0x0106
WHITE_IS_ZERO = 0
WHITE = 65535


def levels(picture: PILImage.Image, tags: Any) -> PILImage.Image:
    """The picture with grey from 0 (black) to 65535 (white) where Pillow gives it as the file has it.

    picture: decoded; tags: its first directory. Raises ValueError for levels that are signed or of 32 bits.
    """
    if picture.mode == "I":
        raise ValueError("its levels are signed or of 32 bits; save it with 8 or 16 bits")
    if not picture.mode.startswith("I;16"):
        return picture
    bits, inverted = tags.get(BITS, (16,))[0], tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if bits == 16 and not inverted:
        return picture
    most = 2**bits - 1
    grey = np.asarray(picture).astype(np.int64)
    grey = most - grey if inverted else grey
    return PILImage.fromarray(((grey * WHITE + most // 2) // most).astype(np.uint16))
