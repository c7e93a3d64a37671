"""Loss curves as pictures, drawn with Pillow."""

from __future__ import annotations

import json
import math
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 640, 320, 48
INKS = ((42, 92, 205), (205, 38, 38), (44, 148, 62), (122, 58, 168))


def draw_curves(name: str, folder: Path, out: Path) -> None:
    """The curves that `training.fit` left in `folder/name.json`, on a logarithmic scale, as `out/name.png`."""
    saved = json.loads((folder / f"{name}.json").read_text())
    rows = saved["curves"]
    parts = [key for key in rows[0] if key != "step"]
    values = [row[part] for row in rows for part in parts if row[part] > 0]
    low, high = math.log10(min(values)), math.log10(max(values))
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)

    def at(step: float, value: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / rows[-1]["step"]
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (math.log10(max(value, 1e-12)) - low) / max(high - low, 1e-9)
        return x, y

    pen.rectangle((MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN), outline=(180, 180, 180))
    for power in range(math.ceil(low), math.floor(high) + 1):
        y = at(0, 10**power)[1]
        pen.line((MARGIN, y, WIDTH - MARGIN, y), fill=(220, 220, 220))
        pen.text((6, y - 6), f"1e{power}", fill=(90, 90, 90))
    for part, ink in zip(parts, INKS, strict=False):
        pen.line([at(row["step"], row[part]) for row in rows], fill=ink, width=2)
    for i, (part, ink) in enumerate(zip(parts, INKS, strict=False)):
        pen.text((WIDTH - MARGIN - 90, MARGIN + 8 + 14 * i), f"{part} {rows[-1][part]:.3g}", fill=ink)
    pen.text((MARGIN, 16), f"{name}: {rows[-1]['step']} steps, {saved['seconds'] / 60:.0f} min", fill=(40, 40, 40))
    pen.text((WIDTH - MARGIN - 30, HEIGHT - MARGIN + 8), "step", fill=(90, 90, 90))
    out.mkdir(parents=True, exist_ok=True)
    picture.save(out / f"{name}.png")
