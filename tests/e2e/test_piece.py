"""A piece against the whole, with the real server: the same bytes, the same report, over both transports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from e2e.jobs import FEW
from e2e.server import Server
from gesso_client import Client, Image
from gesso_client import upload as uploads

pytestmark = pytest.mark.e2e

PHOTO = np.random.default_rng(9).integers(0, 256, (500, 700, 3), np.uint8)


@pytest.mark.parametrize(
    ("transport", "options"),
    [("grpc", {}), ("http", {"padding_mask_crop": 8, "mask_feather": 3}), ("grpc", {"mask_invert": True})],
)
def test_a_piece_gives_the_bytes_of_the_whole(
    server: Server, transport: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((500, 700), np.uint8)
    mask[400:430, 600:690] = 255
    mask[430:434, 600:690] = np.array([200, 120, 60, 20])[:, None]
    if "mask_invert" in options:
        mask = np.invert(mask)
    found: list[tuple[bytes, dict[str, Any]]] = []
    url = server.grpc if transport == "grpc" else f"http://{server.http}"
    for worth in (1 << 30, 1):
        monkeypatch.setattr(uploads, "WORTH", worth)
        with Client(url) as gesso:
            result = gesso.inpaint(PHOTO, mask, "a cat", **FEW, **options)
            assert (result.changed_outside_mask, result.counted_by) == (0, "client")
            timed = ("timings_ms", "queue_ms", "total_ms", "rows_per_step", "cached")
            found.append((result.image.tobytes(), {k: v for k, v in result.report.items() if k not in timed}))
            for event in gesso.stream(PHOTO, mask, "a cat", **FEW, **options):
                assert not isinstance(event, Image) or event.image.tobytes() == found[-1][0]
    assert found[0] == found[1]
