"""Arithmetic and memory traffic of a program compiled for a GPU, counted from its text (HLO).

JAX gives no `cost_analysis` of such a program, and XLA's own counter finds nothing in calls of cuDNN and cuBLAS, which
do nearly all of the work. Here they are counted from their shapes, as `models/cost.py` counts layers.

Legend: D in, F out, o output pixel, k tap of a kernel.
"""

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from expressnet_jax.plan import hlo

#: What moves nothing, or is counted where its parts are.
_FREE = frozenset((
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "while", "conditional", "call",
    "async-start", "async-update", "partition-id", "replica-id", "iota", "opt-barrier",
))  # fmt: skip
_PARTS = ("dynamic-slice", "slice", "gather")  # read only what they give
_FUSED = re.compile(r"\bcalls=%?([\w.\-]+)")
_APPLIED = re.compile(r"\bto_apply=%?([\w.\-]+)")


def flops(text: str) -> float:
    """Operations of convolutions and matrix products in a step, a multiply-add being two; padding is not multiplied."""
    program = hlo.Program(text)
    return float(sum(turns * _flops(one, program.shapes[name]) for name, turns, one in program.executed()))


def moved(text: str) -> float:
    """Bytes that a step's operations read and write, each its operands and results once, caches left out of it."""
    program = hlo.Program(text)
    inner = {
        called
        for part in program.computations.values()
        for one in part
        if one.opcode != "call"
        for called in (*_APPLIED.findall(one.rest), *(_FUSED.findall(one.rest) if one.opcode == "fusion" else ()))
    }
    return float(sum(
        turns * _moved(one, name, program)
        for name, turns, one in program.executed()
        if name not in inner and one.opcode not in _FREE and not one.opcode.endswith("-done")
    ))  # fmt: skip


def _flops(one: hlo.Instruction, shapes: dict[str, str]) -> int:
    if "__cudnn$conv" in one.rest or one.opcode == "convolution":
        return _convolution(one, shapes)
    if "__cublas$" in one.rest or one.opcode == "dot":
        return _product(one, shapes)
    return 0


def _product(one: hlo.Instruction, shapes: dict[str, str]) -> int:
    found = re.search(r'lhs_contracting_dim(?:s=|ension(?:s|_numbers)":)[\[{]([^\]}]*)', one.rest)
    left = hlo.dimensions(shapes[one.operands()[0]])
    contracted = [int(n) for n in re.findall(r"\d+", found[1])] if found else []
    return 2 * math.prod(hlo.dimensions(one.shape)) * math.prod(left[axis] for axis in contracted)


def _convolution(one: hlo.Instruction, shapes: dict[str, str]) -> int:
    """Labels and window are those of the forward convolution, also where a gradient is computed."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    arrays = [hlo.dimensions(shapes[name]) for name in one.operands()[:2]]
    result = hlo.dimensions(one.shape)
    if not labels:
        return 0
    if "BackwardInput" in one.rest:  # (gradient of the output, kernel) -> gradient of the input
        picture, kernel, out = result, arrays[1], arrays[0]
    elif "BackwardFilter" in one.rest:  # (input, gradient of the output) -> gradient of the kernel
        picture, kernel, out = arrays[0], result, arrays[1]
    else:
        picture, kernel, out = arrays[0], arrays[1], result
    of_picture, of_kernel, of_out = labels.groups()
    pairs = 1
    for i, window in enumerate(_windows(one.rest, len(kernel) - 2)):
        axis = str(i)
        pairs *= _taps(picture[of_picture.index(axis)], kernel[of_kernel.index(axis)], out[of_out.index(axis)], *window)
    images, features = out[of_out.index("b")], out[of_out.index("f")]
    return 2 * pairs * images * features * kernel[of_kernel.index("i")]


def _windows(rest: str, axes: int) -> Iterator[tuple[int, int, int, int]]:
    """(stride, padding before, spread of the kernel, of the picture) of each axis: window={size=3x3 pad=0_1x0_1}."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    given = dict(part.split("=") for part in found[1].split()) if found else {}
    for i in range(axes):
        stride, taps, pixels = (
            int(given[name].split("x")[i]) if name in given else 1 for name in ("stride", "rhs_dilate", "lhs_dilate")
        )
        yield stride, int(given["pad"].split("x")[i].split("_")[0]) if "pad" in given else 0, taps, pixels


def _taps(pixels: int, taps: int, results: int, stride: int, before: int, spread: int, between: int) -> int:
    """Pairs (o, k) that lie neither on padding nor between the pixels of a spread picture, along one axis."""
    at = np.arange(results)[:, None] * stride + np.arange(taps) * spread - before
    return int(((at >= 0) & (at <= (pixels - 1) * between) & (at % between == 0)).sum())


def _moved(one: hlo.Instruction, name: str, program: hlo.Program) -> float:
    sizes = [hlo.size(program.shapes[name].get(operand, "")) for operand in one.operands()]
    result = hlo.size(one.shape)
    if one.opcode.endswith("-start"):
        return sum(sizes) * 2.0  # what is read and written here; its shape has both
    if one.opcode in _PARTS:
        return 2.0 * result
    if one.opcode == "dynamic-update-slice":
        return 2.0 * sizes[1]
    fused = _FUSED.search(one.rest) if one.opcode == "fusion" else None
    if not fused or fused[1] not in program.computations:
        return sum(sizes) + result
    inside = program.computations[fused[1]]
    return sum(map(min, sizes, _read(inside, sizes))) + _written(inside, program.shapes[fused[1]], result)


def _read(inside: Sequence[hlo.Instruction], sizes: Sequence[float]) -> list[float]:
    """Bytes that a fusion reads of each operand: all, or the parts that it takes; none of one that it changes."""
    users: dict[str, list[tuple[hlo.Instruction, bool]]] = {}  # of a value: who reads it, and as its first operand
    for one in inside:
        for place, name in enumerate(one.operands()):
            users.setdefault(name, []).append((one, place == 0))
    found = list(sizes)
    for one in inside:
        number = re.match(r"(\d+)\)", one.rest) if one.opcode == "parameter" else None
        readers = users.get(one.name, [])
        if number and readers and int(number[1]) < len(found):
            if all(first and reader.opcode in _PARTS for reader, first in readers):
                found[int(number[1])] = sum(hlo.size(reader.shape) for reader, _ in readers)
            elif all(first and reader.opcode == "dynamic-update-slice" for reader, first in readers):
                found[int(number[1])] = 0.0
    return found


def _written(inside: Sequence[hlo.Instruction], shapes: dict[str, str], result: float) -> float:
    """Bytes that a fusion writes: its result, or the part that changes."""
    changed = [one for one in inside if one.opcode == "dynamic-update-slice"]
    spared = sum(hlo.size(one.shape) - hlo.size(shapes.get(one.operands()[1], "")) for one in changed)
    return max(0.0, result - spared)
