"""What a checkpoint's files say of how it was trained: what its UNet predicts, to which noise, at which size.

A file may say it in the metadata of its header (`modelspec.*`, and `ss_*` of kohya's scripts), by empty tensors whose
names are marks, or in a .yaml beside it; a directory in its scheduler's config. The name of a file says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gesso_export.checkpoint.bounds import short
from gesso_export.checkpoint.checkpoint import Checkpoint, StatedComponent
from gesso_export.checkpoint.strict import read_text
from gesso_export.checkpoint.weights import find_weights
from gesso_export.errors import CheckpointError

EPSILON, V_PREDICTION = "epsilon", "v_prediction"
# Empty tensors by which a file says how it was trained: for v-prediction, and to a terminal signal of zero.
V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
_SPELLINGS = {
    **dict.fromkeys(("eps", "epsilon"), EPSILON),
    **dict.fromkeys(("v", "v_pred", "vpred", "v_prediction", "velocity"), V_PREDICTION),
}
_ARCHITECTURES = {"stable-diffusion-v2-768-v": V_PREDICTION, "stable-diffusion-v2-512": EPSILON}
# Of which models `modelspec.architecture` is, by how it begins.
_FAMILIES = {
    "stable-diffusion-v1": "Stable Diffusion 1.x",
    "stable-diffusion-v2": "Stable Diffusion 2.x",
    "stable-diffusion-xl": "Stable Diffusion XL",
    **dict.fromkeys(("flux-1", "flux.1"), "FLUX.1"),
}
_FLAG = "; --prediction-type decides"
_FILE_FLAG = "; --scheduler FILE decides"
_YAML = (".yaml", ".yml")
_PARAMETERIZATION = re.compile(r"^\s*parameterization\s*:\s*[\"']?([\w-]+)", re.MULTILINE)
_SCALING = re.compile(r"denoiser_scaling\.(\w+)Scaling\b")
_FIRST_KIND = "ldm.models.diffusion.ddpm"  # which predicts the noise unless it says something else
_RESOLUTION = re.compile(r"(\d{3,4})x(\d{3,4})")
_SIZES = range(256, 2049, 64)  # pixels


@dataclass(frozen=True)
class Claim:
    value: str
    source: str  # where it is said

    def __str__(self) -> str:
        return f"{self.source} says {self.value}"


@dataclass(frozen=True)
class Claims:
    prediction: Sequence[Claim] = ()
    zero_snr: Sequence[Claim] = field(default=())  # "true" or "false"
    size: Sequence[Claim] = field(default=())  # pixels
    family: Sequence[Claim] = field(default=())

    def check_family(self, what: str) -> None:
        """Raises CheckpointError when the header is of another family's file; what: that of the tensors."""
        for claim in self.family:
            if not what.startswith(claim.value):
                raise CheckpointError(f"{claim}, but the tensors are those of {what}{_FLAG}")

    def predicts(self, asked: str | None, default: str | None) -> str | None:
        """asked: by the user, which decides. Raises CheckpointError when sources disagree, or say what is not known."""
        said = asked or agreed("prediction type", self.prediction, _FLAG) or default
        if said not in (EPSILON, V_PREDICTION, None):
            raise CheckpointError(f"prediction type: {self.prediction[0]}, which is not supported")
        return said

    def has_zero_snr(self) -> bool:
        return agreed("zero terminal SNR", self.zero_snr) == "true"

    def native(self) -> int | None:
        """Pixels of a side; None when nothing, or nothing that can be, is said."""
        sizes = {claim.value for claim in self.size}
        return int(sizes.pop()) if len(sizes) == 1 else None


def agreed(what: str, claims: Sequence[Claim], decides: str = "") -> str | None:
    """What all of them say. Raises CheckpointError naming two that disagree; decides: how the user may."""
    for claim in claims[1:]:
        if claim.value != claims[0].value:
            raise CheckpointError(f"{what}: {claims[0]}, but {claim}{decides}")
    return claims[0].value if claims else None


def of_file(names: Collection[str], metadata: Mapping[str, str], file: Path | None) -> Claims:
    """Of a file with tensors of these names; file: what a .yaml may be beside."""
    prediction = _of_metadata(metadata) + _of_marks(names) + (_of_yaml(file) if file else [])
    zero = [Claim("true", f"the tensor {ZERO_SNR_MARK}")] if ZERO_SNR_MARK in names else []
    if (said := metadata.get("ss_zero_terminal_snr", "").lower()) in ("true", "false"):
        zero.append(Claim(said, "the header's ss_zero_terminal_snr"))
    size = []
    resolution = metadata.get("modelspec.resolution", "")
    if (match := _RESOLUTION.fullmatch(resolution)) and match[1] == match[2] and int(match[1]) in _SIZES:
        size.append(Claim(match[1], "the header's modelspec.resolution"))
    return Claims(prediction, zero, size, _family(metadata))


def of_directory(checkpoint: Checkpoint) -> Claims:
    """Of a diffusers directory: its scheduler, and what the files of its UNet carry along."""
    config = checkpoint.components["scheduler"].config()
    said = config.get("prediction_type")
    how = "scheduler_config.json" if said is not None else "scheduler_config.json, which names none,"
    found = [Claim(str(said or EPSILON), how)]
    zero = [Claim(str(bool(config.get("rescale_betas_zero_snr"))).lower(), "scheduler_config.json")]
    for header in find_weights(checkpoint.components["unet"]).headers():
        inside = of_file(header.shapes, header.metadata, None)
        found += inside.prediction
        zero += inside.zero_snr
    return Claims(found, zero)


def check(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError when the sources of a directory disagree, unless the user has decided."""
    said = of_directory(checkpoint)
    if checkpoint.prediction_type is None:
        agreed("prediction type", said.prediction, _FLAG)
    if not isinstance(checkpoint.components["scheduler"], StatedComponent):
        agreed("zero terminal SNR", said.zero_snr, _FILE_FLAG)


def _of_metadata(metadata: Mapping[str, str]) -> list[Claim]:
    found = []
    if said := metadata.get("modelspec.prediction_type"):
        found.append(_claim(said, "the header's modelspec.prediction_type"))
    architecture = metadata.get("modelspec.architecture", "")
    if architecture in _ARCHITECTURES:
        found.append(Claim(_ARCHITECTURES[architecture], f"the header's modelspec.architecture ({architecture})"))
    for key in ("ss_v_parameterization", "ss_v_prediction"):
        if (said := metadata.get(key, "").lower()) in ("true", "false"):
            found.append(Claim(V_PREDICTION if said == "true" else EPSILON, f"the header's {key}"))
    return found


def _family(metadata: Mapping[str, str]) -> list[Claim]:
    said = metadata.get("modelspec.architecture", "")
    source = f"the header's modelspec.architecture ({short(said)})"
    return [Claim(what, source) for start, what in _FAMILIES.items() if said.lower().startswith(start)]


def _of_marks(names: Collection[str]) -> list[Claim]:
    return [Claim(V_PREDICTION, f"the tensor {V_MARK}")] if V_MARK in names else []


def _of_yaml(file: Path) -> list[Claim]:
    for suffix in _YAML:
        beside = file.with_suffix(suffix)
        if not beside.exists():
            continue
        text = read_text(beside)
        if match := _PARAMETERIZATION.search(text) or _SCALING.search(text):
            return [_claim(match[1], beside.name)]
        if _FIRST_KIND in text:
            return [Claim(EPSILON, f"{beside.name}, which names no parameterization,")]
    return []


def _claim(said: str, source: str) -> Claim:
    return Claim(_SPELLINGS.get(said.strip().lower().replace("-", "_"), short(said)), source)
