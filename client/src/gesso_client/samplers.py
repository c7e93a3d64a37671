"""Samplers as other tools spell them. A contract test holds this and the server's samplers/names.py together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

ALIKE = 0.7  # of difflib's ratio; below it two names have little in common

# Words in the names of web UI and of diffusers' classes -> ours. Longer ones first.
_WORDS = {
    "dpmsolvermultistep": "dpmpp_2m",
    "dpmsolversinglestep": "dpmpp_2s",
    "dpmsolversde": "dpmpp_2m_sde",
    "flowmatcheulerdiscrete": "flow_euler",
    "flowmatchheundiscrete": "flow_heun",
    "eulerancestraldiscrete": "euler_ancestral",
    "eulerdiscrete": "euler",
    "heundiscrete": "heun",
    "unipcmultistep": "unipc",
    "k_": "",
    "++": "pp",
}


def nearest(name: str, names: Collection[str]) -> str | None:
    """The one of `names` that is most like `name`; None if none is."""
    spelt = name[:60].lower().removesuffix("scheduler")
    for theirs, ours in _WORDS.items():
        spelt = spelt.replace(theirs, ours)
    spelt = re.sub(r"[^a-z0-9]+", "_", spelt).strip("_")
    spelt = re.sub(r"(?<=_)a(?=_|$)", "ancestral", spelt)  # Euler a
    found = difflib.get_close_matches(spelt, names, 1, ALIKE)
    return found[0] if found else None
