"""Which form a convolution of stride 1 takes: what the config asks for, or the fastest by what was measured.

Legend: H W picture height and width, P Q kernel height and width, D in, F out.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from expressnet_jax import target
from expressnet_jax.config import Model
from expressnet_jax.models import large_conv


class _Row(NamedTuple):
    """A layer, and the forms that were the fastest for it."""

    pixels: int
    taps: int
    d: int
    f: int
    inference: str  # forward alone
    training: str  # forward and gradients, of the picture too except in a branch's first layer


#: Where nothing was measured: operations of `direct` for one picture above which a transform is expected to be worth
#: its passes through memory. On a TPU v5e (compiled, not run) the dft of a 15-pixel kernel at 28 pixels needs a
#: thirtieth of the operations of `direct` and moves twenty times the bytes. An H100 computes 295 operations in the time
#: of a byte: of the paper's layers only those of 75 and 50 pixels are above (docs/benchmarks.md: compiled, not run).
_WORTH_A_TRANSFORM = {"gpu": 4e9}
_WORTH_A_TRANSFORM_ELSEWHERE = 1e9
#: Measured by `expressnet bench conv`, float32, the paper's sizes and those that the small preset had until 2026-11-30;
#: docs/benchmarks.md has the times. The fft is left out on
#: CPUs, where with jax 0.11 it can wait for its own thread pool for ever (openxla/xla#46347), and on GPUs and TPUs
#: nothing was measured yet: there counted arithmetic and compiled bytes decide.
_MEASURED: dict[str, tuple[_Row, ...]] = {
    "cpu": (  # two cores of an AMD EPYC (Zen 4), jax 0.10.2; batches of 8 (224 pixels) and 64 (48 pixels)
        _Row(224, 75, 3, 8, "dft", "dft"), _Row(112, 50, 8, 16, "dft", "dft"),
        _Row(56, 25, 16, 32, "dft", "dft"), _Row(28, 15, 32, 64, "dft", "dft"),
        _Row(14, 9, 64, 128, "dft", "dft"), _Row(7, 3, 128, 256, "direct", "direct"),
        _Row(224, 15, 3, 16, "dft", "dft"), _Row(112, 7, 16, 32, "direct", "dft"),
        _Row(56, 5, 32, 64, "dft", "dft"), _Row(28, 3, 64, 128, "direct", "direct"),
        _Row(14, 3, 128, 256, "direct", "direct"), _Row(56, 3, 64, 64, "direct", "direct"),
        _Row(48, 15, 3, 8, "dft", "dft"), _Row(24, 11, 8, 16, "dft", "dft"),
        _Row(12, 5, 16, 32, "direct", "direct"), _Row(6, 3, 32, 64, "direct", "direct"),
        _Row(3, 3, 64, 128, "direct", "direct"), _Row(48, 5, 3, 16, "direct", "direct"),
        _Row(24, 3, 16, 32, "direct", "direct"), _Row(12, 3, 32, 64, "direct", "direct"),
    ),
}  # fmt: skip


def asked(convolution: str, layer: str) -> str:
    """The form that `model.convolution` names for this layer; "" for the fastest."""
    forms = {"": "auto"}
    for part in convolution.split(","):
        name, _, form = part.strip().rpartition("=")
        forms[name] = form
    form = forms.get(layer, forms[""])
    return "" if form == "auto" else form


def fastest(picture: tuple[int, ...], kernel: tuple[int, ...], *, train: bool) -> str:
    """The fastest form for pictures (H, W) and a kernel (P, Q, D, F), in training or inference, on this platform: that
    of the measured layer whose sizes are nearest, as factors."""
    p, q, d, f = kernel
    if p * q == 1:
        return "direct"
    rows = _MEASURED.get(target.platform())
    if not rows:
        flops = {form: large_conv.flops(picture, kernel, form) for form in ("direct", "dft")}
        enough = _WORTH_A_TRANSFORM.get(target.platform(), _WORTH_A_TRANSFORM_ELSEWHERE)
        return "dft" if flops["direct"] > max(enough, flops["dft"]) else "direct"
    sizes = (math.sqrt(picture[0] * picture[1]), math.sqrt(p * q), d, f)

    def distance(row: _Row) -> float:
        weights = (1, 2, 0.5, 0.5)  # a kernel's size decides most, by its square
        return sum(w * abs(math.log(a / b)) for w, a, b in zip(weights, sizes, row[:4], strict=True))

    nearest = min(rows, key=distance)
    return nearest.training if train else nearest.inference


def form(model: Model, layer: str, side: int, kernel: tuple[int, ...], *, train: bool) -> str:
    """The form that this layer takes for square pictures: the one that is asked for, or the fastest."""
    return asked(model.convolution, layer) or fastest((side, side), kernel, train=train)


def layers(model: Model) -> Iterator[tuple[str, int, tuple[int, int, int, int]]]:
    """(name, side of the picture, kernel shape (P, Q, D, F)) of the extractors' convolutions of stride 1."""
    for branch, spec in {"cnnfe1": model.cnnfe1, "cnnfe2": model.cnnfe2}.items():
        if branch not in model.parts:
            continue
        d = 3
        for i, (taps, f) in enumerate(zip(spec.kernels, spec.filters, strict=True), start=1):
            if i > 1 or spec.stride == 1:
                yield f"{branch}/conv{i}", spec.side(model.image_size, i), (taps, taps, d, f)
            d = f


def describe(model: Model, *, train: bool) -> str:
    """One line for the log: the form of every convolution that has a choice."""
    forms = [
        f"{name} {kernel[0]}x{kernel[1]} {form(model, name, side, kernel, train=train)}"
        for name, side, kernel in layers(model)
    ]
    return "convolutions: " + (", ".join(forms) or "all direct")
