"""model.int8.onnx: the float32 graph with its convolutions in 8 bits, by onnxruntime's own tool.

Weights are signed, symmetric, a scale for each channel; activations unsigned, their ranges taken from real pictures.
Everything else stays in float32: routers and experts, convolutions that are matrix products with cosines, and dense
layers too, with which the accuracy of the small network on FER-2013 fell from 62 to 40 % (without: 61.5 %).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from expressnet_jax.export import onnx_format

_AT_ONCE = 16


def write(source: Path, path: Path, pictures: np.ndarray) -> None:
    """Quantises the graph at `source`; pictures (B, H, W, 3) uint8 are what the ranges are taken from."""
    onnx_format.require()
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
        def __init__(self) -> None:
            self.parts = iter(np.array_split(pictures, -(-len(pictures) // _AT_ONCE)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part}

    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)  # it advises a preparation that our graph does not need
    try:
        quantization.quantize_static(
            str(source), str(path), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["Conv"], activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    finally:
        logger.setLevel(level)
