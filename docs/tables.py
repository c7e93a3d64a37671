"""The tables that stand in docs and configs but have their home in the code.

    python -m docs.tables            write them
    python -m docs.tables --check    fail, naming the file, where one is not what the code says (`make lint`)

A table stands between two lines `<!-- table: NAME (make tables) -->`; of a config.pbtxt, the inputs are the table.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_type_hints

from benchmarks.harness.page import replaced, table
from gesso_backend.kinds.diffusion.samplers import ALGORITHMS
from gesso_backend.model.parameters import PARAMETERS
from gesso_backend.model.wire import INPUTS, PICTURES
from gesso_backend.settings import RULES, Settings
from gesso_client.request import ClientOptions
from gesso_export.precision import PRECISIONS

ROOT = Path(__file__).parent.parent
DATA_TYPES = {"BYTES": "TYPE_STRING"}  # which Triton's configs call otherwise than its wire
PICTURE_TEXTS = {
    "image": "sRGB. Absent: text-to-image. Any size; the output has the same",
    "mask_image": "255 repaints, 0 keeps; between: a soft edge. Absent with an image: image-to-image",
}


def inputs() -> str:
    """Every input of the wire."""
    rows = []
    for name in INPUTS:
        if name in PICTURES:
            rows.append((f"`{name}`", f"UINT8 [H,W{',3' if len(PICTURES[name]) == 3 else ''}]", PICTURE_TEXTS[name]))
        else:
            row = PARAMETERS[name]
            rows.append((f"`{name}`", f"{row.datatype} [{'N' if row.is_list else 1}]", row.text))
    return table(("input", "type, shape", "meaning"), rows)


def samplers() -> str:
    """Every sampler, how its steps can be spaced and what a request may say of them."""

    def names(found: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in found)

    rows = [
        (f"`{name}`", names(f"_{spacing}" for spacing in each.spacings), names(sorted(each.taken)))
        for name, each in ALGORITHMS.items()
    ]
    return table(("sampler", "spacings beside the plain one", "takes"), rows)


def options() -> str:
    """Every setting that is an option of gesso-serve."""
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    rows = [
        (f"`--{name.replace('_', '-')}`", f"`{defaults[name]}`" if defaults[name] != "" else "", rule.help)
        for name, rule in RULES.items()
        if rule.help
    ]
    return table(("option", "default", "meaning"), rows)


def precisions() -> str:
    """What networks are exported in."""
    rows = [(f"`{name}`", *each.summary) for name, each in PRECISIONS.items()]
    return table(("`--precision`", "what", "of", "held to"), rows)


def client_options() -> str:
    """What the SDK's calls take besides the parameters of the wire."""
    hints = get_type_hints(ClientOptions, include_extras=True)
    return table(("option", "what"), [(f"`{name}`", hint.__metadata__[0]) for name, hint in hints.items()])


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "docs/api.md": {"inputs": inputs, "samplers": samplers, "options": options},
    "client/README.md": {"client options": client_options},
    "export/README.md": {"precisions": precisions},
}
CONFIGS = ("model_repository/inpaint/config.pbtxt", "model_repository/inpaint_once/config.pbtxt")


def config(text: str) -> str:
    """A config.pbtxt with its inputs made anew. All are optional: which of them a request needs, its kind says."""
    lines = []
    for name in INPUTS:
        if name in PICTURES:
            datatype, dims, shape = "UINT8", list(PICTURES[name]), "H, W, 3" if len(PICTURES[name]) == 3 else "H, W"
            comment = f"  # [{shape}]" + (" sRGB" if name == "image" else "; 255 repaints, 0 keeps")
        else:
            row = PARAMETERS[name]
            datatype, dims, comment = row.datatype, [-1 if row.is_list else 1], ""
        kind = DATA_TYPES.get(datatype, f"TYPE_{datatype}")
        sizes = ", ".join(map(str, dims))
        lines.append(f'input {{ name: "{name}" data_type: {kind} dims: [ {sizes} ] optional: true }}{comment}\n')
    return re.sub(r"(?:^input \{.*\n)+", "".join(lines), text, count=1, flags=re.MULTILINE)


def page(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """A page with its tables made anew. Raises ValueError for one that has no place on it."""
    for name, make in tables.items():
        text = replaced(text, f"<!-- table: {name} (make tables) -->", make())
    return text


def main(arguments: Sequence[str]) -> int:
    made = {name: config((ROOT / name).read_text(encoding="utf-8")) for name in CONFIGS}
    made |= {name: page((ROOT / name).read_text(encoding="utf-8"), tables) for name, tables in PAGES.items()}
    stale = [name for name, text in made.items() if (ROOT / name).read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for name in stale:
            print(f"{name}: a table is not what the code says: make tables", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(made[name], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
