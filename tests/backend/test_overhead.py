"""No picture file is read or written in a server."""

from __future__ import annotations

import subprocess
import sys


def test_a_server_loads_no_picture_format() -> None:
    """Encoding PNG costs tens of milliseconds a picture: a server that does it in its loop stands still meanwhile.

    Pillow is there to resize arrays; its formats are plugins, which it imports when a file is opened or saved.
    """
    program = (
        "import sys, gesso_backend.pixels.canvas, gesso_backend.kinds.diffusion.paint\n"
        "import gesso_backend.serving.service, gesso_backend.serving.outbox\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "Image.fromarray(np.zeros((8, 8, 3), np.uint8)).resize((16, 16))\n"
        "print([n for n in sys.modules if n.startswith('PIL.') and n.endswith('Plugin') or n in ('cv2', 'imageio')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
