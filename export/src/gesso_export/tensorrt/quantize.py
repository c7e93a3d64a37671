"""A network to fp8 or int8 Q/DQ, by nvidia-modelopt, calibrated on the bundle's reference inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gesso_export.errors import BuildError, first_line
from gesso_export.proof.reference import Case

MODES = ("fp8", "int8")


class Reader:
    """ONNX Runtime's calibration data reader over the reference cases."""

    def __init__(self, cases: list[Case]) -> None:
        self._cases = cases
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        case = next(self._left, None)
        return None if case is None else dict(case.inputs)

    def get_first(self) -> dict[str, Any]:
        return dict(self._cases[0].inputs)

    def rewind(self) -> None:
        self._left = iter(self._cases)


def quantize(onnx: Path, mode: str, precision: str, cases: list[Case], out: Path, modelopt: Any) -> None:
    """Write the quantised graph to `out`. modelopt: the module `modelopt.onnx.quantization`. Raises BuildError."""
    try:
        modelopt.quantize(
            onnx_path=str(onnx),
            quantize_mode=mode,
            calibration_data_reader=Reader(cases),
            calibration_eps=["cuda:0", "cpu"],
            high_precision_dtype=precision,
            use_external_data_format=True,
            output_path=str(out),
            log_level="WARNING",
        )
    except Exception as error:  # of modelopt, onnx and onnxruntime
        raise BuildError(f"{onnx.name} cannot be quantised to {mode}: {first_line(error)}") from error
    if not out.is_file():
        raise BuildError(f"{onnx.name} was not quantised: modelopt wrote nothing")
