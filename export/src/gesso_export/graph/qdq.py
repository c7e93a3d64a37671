"""A float32 graph to 8-bit integers, by ONNX Runtime's quantizer.

Convolutions and products with weights take 8-bit inputs and weights (quantize-dequantize pairs around them); everything
between them stays float32. Ranges are fixed here, from the inputs the network is calibrated on. (Ranges taken from each
batch as it comes, ONNX Runtime's dynamic quantization, would make a row's answer depend on its neighbours.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from gesso_export.proof.reference import Arrays


class _Inputs(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, calls: list[Arrays]) -> None:
        self._calls: Iterator[Arrays] = iter(calls)

    def get_next(self) -> Arrays | None:
        return next(self._calls, None)


def write(source: Path, made: Path, calls: list[Arrays]) -> None:
    """Write `source` in 8-bit integers to `made`, its weights beside it; calls: the inputs to calibrate on."""
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
