"""The denoiser in 8-bit integers, for CPUs, and the gate it has to pass before there is a bundle of it.

It is written in float32, like the rest of the bundle, and quantised when the bundle can paint: on two pictures its
ranges are fixed, on four others it is judged. docs/cpu.md has the measurements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gesso_export.bundle.manifest import NetworkSpec
from gesso_export.errors import CheckpointError, VerificationError
from gesso_export.precision import fp32
from gesso_export.precision.precision import Draft, Passed, Precision
from gesso_export.proof.reference import Array, Arrays

if TYPE_CHECKING:
    from gesso_export.families.model import Model
    from gesso_export.networks.module import NetworkModule
    from gesso_export.networks.network import Network
    from gesso_export.proof.painting import Painter

FAMILY = "stable-diffusion"
CALIBRATED = range(2)  # pictures
JUDGED = range(2, 6)  # others
# The gate. The shipped model's numbers are in docs/cpu.md.
MAX_NOISE_ERROR = 0.10
MIN_PSNR = 30.0


@dataclass(frozen=True)
class Quality:
    """int8 held against float32, on pictures it was not calibrated on."""

    noise_error: float  # root mean square error of noise_pred, in its standard deviations; mean over the calls
    psnr: float  # of the painted pictures inside their masks, in dB; the worst

    def __str__(self) -> str:
        return f"noise_pred off by {self.noise_error:.3f}, worst picture {self.psnr:.1f} dB"

    def check(self) -> None:
        """Raises VerificationError naming the number that is not good enough."""
        if not self.noise_error <= MAX_NOISE_ERROR:
            raise VerificationError(
                f"int8: noise_pred is off by {self.noise_error:.3f} standard deviations; {MAX_NOISE_ERROR} is allowed"
            )
        if not self.psnr >= MIN_PSNR:
            raise VerificationError(
                f"int8: a picture is {self.psnr:.1f} dB from the float32 one; {MIN_PSNR:.0f} dB are asked for"
            )


class Int8:
    name = "int8"
    bytes_per_weight = 5  # for a while the float32 denoiser stands beside its int8 form
    # Of its own answers when it was made, on another machine: it is judged by pictures, not by these.
    tolerance = 1e-1
    # Of the finished bundle: what it was made from is held to fp32's. The shipped model is off by 1e-1, and the gate
    # lets through more than twice the error of its noise_pred.
    picture_tolerance = 5e-1
    summary = (
        "the denoiser's convolutions and products with weights; all else stays fp32",
        "Stable Diffusion 1.x and 2.x; for CPUs",
        f"pictures of fp32: at least {MIN_PSNR:g} dB, `noise_pred` within {MAX_NOISE_ERROR:g} on average; "
        f"diffusers' pipeline, within {picture_tolerance:g}",
    )

    def check(self, model: Model) -> None:
        """Painting, by which it is judged, is of one family."""
        if model.family != FAMILY:
            raise CheckpointError(f"--precision {self.name} is for {FAMILY}; this checkpoint is {model.family}")

    def applies(self, network: Network) -> bool:
        from gesso_export.networks.network import Role

        return network.role is Role.DENOISER

    def write(self, network: Network, module: NetworkModule, inputs: Arrays, folder: Path) -> NetworkSpec:
        """In float32; `gate` makes it int8."""
        return fp32.PRECISION.write(network, module, inputs, folder)

    def gate(self, draft: Draft, network: str) -> Passed:
        from gesso_export.proof import painting, verify

        folder, model = draft.folder, draft.model
        (limits,) = draft.tokenizers.values()  # of a family with one text encoder
        painter = painting.Painter.of(folder, draft.networks, limits, model.scheduler, model.vae, model.size, network)
        spec, quality = quantize(folder, draft.networks[network], painter)
        cases = [verify.answered(folder / spec.file, case) for case in draft.cases[network]]
        verify.check_network(folder, network, spec, cases, self.tolerance)
        return Passed(spec, cases, str(quality))


def quantize(folder: Path, spec: NetworkSpec, painter: Painter) -> tuple[NetworkSpec, Quality]:
    """Replace the float32 denoiser in `folder` by its int8 form. Raises VerificationError when it fails the gate."""
    from gesso_export.graph import qdq  # onnxruntime's quantizer takes a second to import

    path = folder / spec.file
    exact = _denoiser(path)
    seen: list[Arrays] = []
    for number in CALIBRATED:
        painter.paint(number, exact, seen)
    judged: list[Arrays] = []
    pictures = [painter.paint(number, exact, judged) for number in JUDGED]
    expected = [exact(inputs) for inputs in judged]
    del exact

    made = folder / f".{path.stem}.int8" / path.name
    made.parent.mkdir()
    qdq.write(path, made, seen)
    rough = _denoiser(made)
    errors = [
        float(np.sqrt(np.square(rough(inputs) - answer).mean()) / answer.std())
        for inputs, answer in zip(judged, expected, strict=True)
    ]
    found = [painter.paint(number, rough) for number in JUDGED]
    quality = Quality(float(np.mean(errors)), min(map(psnr, found, pictures)))
    quality.check()

    (folder / spec.cpu_file).unlink(missing_ok=True)
    for file in list(made.parent.iterdir()):
        file.chmod(path.stat().st_mode)  # the quantizer's are its owner's alone
        file.replace(folder / file.name)
    made.parent.rmdir()
    return dataclasses.replace(spec, precision=PRECISION.name), quality


def psnr(picture: Array, reference: Array) -> float:
    """In dB, of pictures in [-1, 1], over the pixels that are painted (the others are 0 in both)."""
    painted = (picture != 0) | (reference != 0)
    error = float(np.square(picture - reference)[painted].mean())
    return float(10 * np.log10(4 / max(error, 1e-12)))


def _denoiser(path: Path) -> Callable[[Arrays], Array]:
    from gesso_export.proof.painting import session

    network = session(path)

    def denoise(inputs: Arrays) -> Array:
        answer: Array = network.run(None, inputs)[0]
        return answer

    return denoise


PRECISION: Precision = Int8()
