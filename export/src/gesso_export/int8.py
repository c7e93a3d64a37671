"""The denoiser in 8-bit integers, and the gate it has to pass before there is a bundle of it.

Convolutions and products with weights take 8-bit inputs and weights; everything between them stays float32. Ranges are
fixed here, from the inputs the network sees while it paints. (Ranges taken from each batch as it comes, ONNX Runtime's
dynamic quantization, would make a row's answer depend on its neighbours.) docs/cpu.md has the measurements.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from gesso_export import fused_attention
from gesso_export.errors import CheckpointError, VerificationError
from gesso_export.manifest import NetworkSpec
from gesso_export.networks import Arrays
from gesso_export.painting import Denoise, Painter, session
from gesso_export.sampling import Array

FAMILY = "stable-diffusion"
NETWORK = "unet"
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


def check_family(family: str) -> None:
    """Raises CheckpointError for a family that has no int8."""
    if family != FAMILY:
        raise CheckpointError(f"--precision int8 is for {FAMILY}; this checkpoint is {family}")


def quantize(folder: Path, spec: NetworkSpec, painter: Painter) -> tuple[NetworkSpec, Quality]:
    """Replace the float32 denoiser in `folder` by its int8 form. Raises VerificationError when it fails the gate."""
    path = folder / spec.file
    exact = _denoise(path)
    seen: list[Arrays] = []
    for number in CALIBRATED:
        painter.paint(number, exact, seen)
    judged: list[Arrays] = []
    pictures = [painter.paint(number, exact, judged) for number in JUDGED]
    expected = [exact(inputs) for inputs in judged]
    del exact

    made = folder / f".{path.stem}.int8" / path.name
    made.parent.mkdir()
    _write(path, made, seen)
    rough = _denoise(made)
    errors = [
        float(np.sqrt(np.square(rough(inputs) - answer).mean()) / answer.std())
        for inputs, answer in zip(judged, expected, strict=True)
    ]
    found = [painter.paint(number, rough) for number in JUDGED]
    quality = Quality(float(np.mean(errors)), min(map(psnr, found, pictures)))
    quality.check()

    fused_attention.path_of(path).unlink(missing_ok=True)
    for file in list(made.parent.iterdir()):
        file.chmod(path.stat().st_mode)  # the quantizer's are its owner's alone
        file.replace(folder / file.name)
    made.parent.rmdir()
    return dataclasses.replace(spec, precision="int8"), quality


def psnr(picture: Array, reference: Array) -> float:
    """In dB, of pictures in [-1, 1], over the pixels that are painted (the others are 0 in both)."""
    painted = (picture != 0) | (reference != 0)
    error = float(np.square(picture - reference)[painted].mean())
    return float(10 * np.log10(4 / max(error, 1e-12)))


def _denoise(path: Path) -> Denoise:
    unet = session(path)

    def denoise(inputs: Arrays) -> Array:
        answer: Array = unet.run(None, inputs)[0]
        return answer

    return denoise


class _Inputs(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, calls: list[Arrays]) -> None:
        self._calls: Iterator[Arrays] = iter(calls)

    def get_next(self) -> Arrays | None:
        return next(self._calls, None)


def _write(source: Path, made: Path, calls: list[Arrays]) -> None:
    # The shapes torch notes inside the graph are not always those that ONNX infers again, which is then an error.
    plain = source.with_suffix(".plain.onnx")
    model = onnx.load(source, load_external_data=False)
    del model.graph.value_info[:]
    onnx.save(model, plain)
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises, at length, to optimise the graph beforehand
    try:
        quantize_static(
            plain,
            made,
            _Inputs(calls),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"WeightSymmetric": True, "MatMulConstBOnly": True},
        )
    finally:
        logging.root.setLevel(before)
        plain.unlink()
