"""model.onnx: opset 18, free batch, height and width, resize and normalisation inside; float32 or float16.

Pictures are (B, C, H, W) here, as ONNX wants them.

Why not through jax2onnx: 0.17 asks for an older orbax-checkpoint than the one that writes our checkpoints, brings 25
packages, and leaves a transpose around every convolution. What is written here instead is `network.build`.

Legend: B image, H W height and width, P Q kernel height and width, D in, F out, E experts, K chosen, U V frequencies
from 0 to half, Z = 2 U V all of a picture's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from expressnet_jax.config import Config, ConfigError, Preprocess
from expressnet_jax.export import artifact, network
from expressnet_jax.models import large_conv, target

OPSET, IR_VERSION = 18, 8  # the first with an antialiased Resize; the IR of the same release
#: A convolution becomes matrix products with cosines and sines where it is at least so large (FLOP a picture) and they
#: need at most this part of its arithmetic. Measured with onnxruntime 1.31 on two cores, one picture, ms, direct and
#: so: 75 pixels at 224: 390 and 21, 50 at 112: 125 and 11, 25 at 56: 23 and 4; 15 pixels at 224 gain nothing.
_WORTH_A_TRANSFORM, _SMALLER = 1e9, 0.125
#: Input channels up to which spectra are multiplied one by one: as a product of many small matrices, six times slower.
_SUMMED = 4


def write(path: Path, config: Config, weights: Mapping[str, np.ndarray], *, dtype: str = "float32") -> None:
    """Writes the graph. In float16 the router, the experts and the head stay in float32."""
    onnx = require()
    ops = _Onnx(onnx, np.dtype(dtype))
    outputs = network.build(ops, config, weights)
    for name, value in outputs.items():
        ops.node("Identity", [value], name=name)
    moe, classes = config.moe, len(config.data.classes)
    widths = {"probabilities": classes, "logits": classes, "features": ops.widths[outputs["features"]]}
    kinds = onnx.TensorProto
    graph = onnx.helper.make_graph(
        ops.nodes, "expressnet",
        [onnx.helper.make_tensor_value_info("images", kinds.UINT8, ["batch", "height", "width", 3])],
        [
            onnx.helper.make_tensor_value_info(
                name, kinds.FLOAT if name in widths else kinds.INT32, ["batch", widths.get(name, moe.selected)]
            )
            for name in artifact.outputs(config)
        ],
        list(ops.initializers.values()),
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="expressnet_jax",
    )
    onnx.helper.set_model_props(
        model,
        {"classes": json.dumps(config.data.classes), "preprocessing": json.dumps(artifact.preprocessing(config))},
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


def load(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The graph of a file as a function from images (B, H, W, 3) uint8 to outputs by name, run by onnxruntime."""
    require()
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def require() -> Any:
    """The package onnx. Raises ConfigError where it or onnxruntime is missing."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ONNX needs the package {error.name}: pip install 'expressnet_jax[onnx]'") from None
    return onnx


class _Onnx:
    """`network.Ops` as ONNX nodes; a value is its name."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.sides: dict[str, tuple[int, int]] = {}  # (height, width) of pictures
        self.widths: dict[str, int] = {}  # last axis of everything else

    def node(self, op: str, inputs: list[str], *, name: str = "", **attributes: Any) -> str:
        """Adds a node with one output, named after itself."""
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name=f"node/{name}", **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        """Adds a constant; one that is there already is used again."""
        self.initializers[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def pictures(self, size: int, config: Preprocess) -> str:
        x = self.node("Cast", ["images"], to=self.onnx.TensorProto.FLOAT)
        x = self.node("Transpose", [x], perm=[0, 3, 1, 2])
        # All four sizes: given two and their axes, onnxruntime 1.31 moves the transpose past the Resize wrongly.
        kept = self.node("Shape", [x], end=2)
        sizes = self.node("Concat", [kept, self.constant("picture/size", np.array([size, size]))], axis=0)
        # Beyond the edge there is nothing, rather than the last pixel, as in `jax.image.resize` and Pillow.
        x = self.node(
            "Resize", [x, "", "", sizes], mode="linear", coordinate_transformation_mode="half_pixel",
            antialias=int(config.antialias), exclude_outside=int(config.antialias),
        )  # fmt: skip
        for number, (what, by) in enumerate(network.normalization(config)):
            value = by.reshape(1, -1, 1, 1)
            op = {"divide": "Div", "subtract": "Sub"}[what]
            x = self.node(op, [x, self.constant(f"picture/{number}_{what}", value)])
        if config.color_order == "bgr":
            x = self.node("Gather", [x, self.constant("picture/bgr", np.array([2, 1, 0]))], axis=1)
        return self._picture(self._cast(x, self.dtype), (size, size))

    def conv(
        self, name: str, x: str, kernel: np.ndarray, bias: np.ndarray | None, stride: int = 1, *, even: bool = False
    ) -> str:
        side, taps = self.sides[x], kernel.shape[:2]
        if stride == 1 and self.dtype == np.float32 and _worth_a_transform(side, kernel.shape):
            y = self._transformed(name, x, kernel)
            if bias is None:
                return y
            return self._picture(self.node("Add", [y, self.constant(f"{name}/bias", bias.reshape(1, -1, 1, 1))]), side)
        result = tuple(-(-pixels // stride) for pixels in side)
        padding = [max(0, (n - 1) * stride + p - pixels) for n, p, pixels in zip(result, taps, side, strict=True)]
        # The larger half at the bottom and right, as in TensorFlow.
        pads = [n // 2 for n in padding] + [n - n // 2 for n in padding]
        if even and stride > 1:
            pads = 2 * [p // 2 for p in taps]
        inputs = [x, self._weight(f"{name}/kernel", kernel.transpose(3, 2, 0, 1))]
        inputs += [] if bias is None else [self._weight(f"{name}/bias", bias)]
        y = self.node("Conv", inputs, name=name, kernel_shape=list(taps), strides=[stride, stride], pads=pads)
        return self._picture(y, result)

    def affine(self, name: str, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
        y = self.node("Mul", [x, self._weight(f"{name}/scale", scale.reshape(1, -1, 1, 1))])
        y = self.node("Add", [y, self._weight(f"{name}/shift", shift.reshape(1, -1, 1, 1))])
        return self._picture(y, self.sides[x])

    def max_pool(self, x: str, window: int, *, padding: int = 0) -> str:
        y = self.node("MaxPool", [x], kernel_shape=[window, window], strides=[2, 2], pads=[padding] * 4)
        return self._picture(y, tuple((side + 2 * padding - window) // 2 + 1 for side in self.sides[x]))

    def mean(self, x: str) -> str:
        return self.node("ReduceMean", [x, self.constant("axes/pixels", np.array([2, 3]))], keepdims=0)

    def flatten(self, x: str) -> str:
        return self.node("Flatten", [self.node("Transpose", [x], perm=[0, 2, 3, 1])])

    def wide(self, x: str) -> str:
        return self._cast(x, np.dtype(np.float32))

    def dense(self, name: str, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        # Only CNNFE1's is before `wide`.
        weight = self._weight if name == "cnnfe1/dense" else self.constant
        y = self.node("Gemm", [x, weight(f"{name}/kernel", kernel), weight(f"{name}/bias", bias)], name=name)
        self.widths[x], self.widths[y] = kernel.shape
        return y

    def relu(self, x: str) -> str:
        return self._like(x, self.node("Relu", [x]))

    def add(self, x: str, y: str) -> str:
        return self._like(x, self.node("Add", [x, y]))

    def concat(self, values: list[str]) -> str:
        return self.node("Concat", values, axis=-1)

    def softmax(self, x: str) -> str:
        return self.node("Softmax", [x], axis=-1)

    def top_k(self, x: str, k: int) -> str:
        name = f"topk_{len(self.nodes)}"
        inputs = [x, self.constant(f"{name}/k", np.array([k]))]
        self.nodes.append(self.onnx.helper.make_node("TopK", inputs, [f"{name}/values", name], name=f"node/{name}"))
        return self._cast(name, np.dtype(np.int32))

    def take(self, x: str, chosen: str) -> str:
        return self.node("GatherElements", [x, chosen], axis=1)

    def divide_by_sum(self, x: str) -> str:
        return self.node("Div", [x, self.node("ReduceSum", [x, self.constant("axes/last", np.array([-1]))])])

    def shift(self, name: str, x: str, by: np.ndarray) -> str:
        return self.node("Add", [x, self.constant(name, by)])

    def experts(self, name: str, x: str, layers: network.Layers, chosen: str, gates: str) -> str:
        e = layers[0][0].shape[0]
        rows = self.node("Unsqueeze", [x, self.constant("axes/first", np.array([0]))])  # (1, B, D)
        for number, (kernel, bias) in enumerate(layers, start=1):
            rows = self.node("MatMul", [rows, self.constant(f"{name}/layer{number}/kernels", kernel)])  # (E, B, F)
            rows = self.node("Add", [rows, self.constant(f"{name}/layer{number}/biases", bias[:, None])])
            rows = self.node("Relu", [rows])
        batch = self.node("Shape", [x], end=1)
        shape = self.node("Concat", [batch, self.constant(f"{name}/count", np.array([e]))], axis=0)
        none = self.node("ConstantOfShape", [shape])  # (B, E) of 0
        weights = self.node("ScatterElements", [none, chosen, gates], axis=1)
        weights = self.node("Unsqueeze", [weights, self.constant("axes/last", np.array([-1]))])  # (B, E, 1)
        weights = self.node("Transpose", [weights], perm=[1, 0, 2])
        weighted = self.node("Mul", [rows, weights])
        return self.node("ReduceSum", [weighted, self.constant("axes/first", np.array([0]))], name=name, keepdims=0)

    def _transformed(self, name: str, x: str, kernel: np.ndarray) -> str:
        """A SAME convolution of stride 1 by the convolution theorem: see `models.large_conv`, whose `dft` this is.

        ONNX has no complex numbers: real and imaginary parts are values of their own.
        """
        (height, width), (p, q) = self.sides[x], kernel.shape[:2]
        down, across = (
            _Waves(self, f"{name}/{axis}", pixels, taps)
            for axis, pixels, taps in (("down", height, p), ("across", width, q))
        )
        cosine, sine = across.of_columns(x)  # (B, D, H, V)
        (cc, sc), (cs, ss) = down.of_rows(cosine), down.of_rows(sine)  # (B, D, U, V)
        real = self.node("Concat", [self.node("Sub", [cc, ss]), self.node("Add", [cc, ss])], axis=2)  # (B, D, 2U, V)
        imaginary = [self.node("Neg", [self.node("Add", [cs, sc])]), self.node("Sub", [sc, cs])]
        spectrum = _spectrum(kernel.astype(np.float64), down, across)  # (Z, D, F)
        product = self._products(name, real, self.node("Concat", imaginary, axis=2), spectrum, (2 * down.u, across.u))
        (plus_re, minus_re), (plus_im, minus_im) = (self._halves(part, down.u) for part in product)
        cc, ss = self.node("Add", [plus_re, minus_re]), self.node("Sub", [minus_re, plus_re])
        cs, sc = self.node("Neg", [self.node("Add", [plus_im, minus_im])]), self.node("Sub", [minus_im, plus_im])
        cosine, sine = across.to_columns(cc, cs), across.to_columns(sc, ss)  # (B, F, U, W)
        return self._picture(down.to_rows(cosine, sine), (height, width))

    def _products(
        self, name: str, real: str, imaginary: str, spectrum: np.ndarray, shape: tuple[int, int]
    ) -> tuple[str, str]:
        """Real and imaginary part (B, F, 2U, V) of the product of (B, D, 2U, V) with a spectrum (Z, D, F)."""
        z, d, f = spectrum.shape
        summed = d <= _SUMMED
        parts = {
            part: self.constant(
                f"{name}/spectrum/{part}",
                (value.transpose(1, 2, 0).reshape(1, d, f, *shape) if summed else value).astype(np.float32),
            )
            for part, value in (("real", spectrum.real), ("imaginary", spectrum.imag))
        }
        if summed:
            axis = self.constant("axes/f", np.array([2]))
            left = [self.node("Unsqueeze", [x, axis]) for x in (real, imaginary)]  # (B, D, 1, 2U, V)
        else:
            flat = self.constant(f"{name}/flat", np.array([-1, d, z]))
            left = [
                self.node("Transpose", [self.node("Reshape", [x, flat])], perm=[2, 0, 1]) for x in (real, imaginary)
            ]  # (Z, B, D)

        def product(x: str, part: str) -> str:
            return self.node("Mul" if summed else "MatMul", [x, parts[part]])

        a = self.node("Sub", [product(left[0], "real"), product(left[1], "imaginary")])
        b = self.node("Add", [product(left[0], "imaginary"), product(left[1], "real")])
        if summed:
            over = self.constant("axes/d", np.array([1]))
            return self.node("ReduceSum", [a, over], keepdims=0), self.node("ReduceSum", [b, over], keepdims=0)
        back = self.constant(f"{name}/back", np.array([-1, f, *shape]))
        a, b = (self.node("Reshape", [self.node("Transpose", [y], perm=[1, 2, 0]), back]) for y in (a, b))
        return a, b

    def _halves(self, x: str, u: int) -> tuple[str, str]:
        axes = self.constant("axes/rows", np.array([2]))
        first, middle, last = (self.constant(f"at/{at}", np.array([at])) for at in (0, u, 2 * u))
        return self.node("Slice", [x, first, middle, axes]), self.node("Slice", [x, middle, last, axes])

    def _picture(self, x: str, side: tuple[int, ...]) -> str:
        self.sides[x] = (side[0], side[1])
        return x

    def _like(self, x: str, y: str) -> str:
        if x in self.sides:
            self.sides[y] = self.sides[x]
        return y

    def _weight(self, name: str, value: np.ndarray) -> str:
        return self.constant(name, value.astype(self.dtype))

    def _cast(self, x: str, dtype: np.dtype[Any]) -> str:
        if dtype == np.float32 and self.dtype == np.float32:
            return x
        return self._like(x, self.node("Cast", [x], to=self.onnx.helper.np_dtype_to_tensor_dtype(dtype)))


class _Waves:
    """Cosines and sines along one axis of a picture, and the products with them."""

    def __init__(self, ops: _Onnx, name: str, pixels: int, taps: int) -> None:
        self.ops, self.name, self.anchor, self.taps = ops, name, (taps - 1) // 2, taps
        self.length = max(pixels + taps // 2, taps)  # circular; what wraps around falls outside the picture
        self.u = self.length // 2 + 1
        angles = self.angles(np.arange(pixels))  # (U, pixels)
        weights = np.full((self.u, 1), 2.0)  # how often a frequency counts; half of it in each of two signs
        weights[0] = 1
        if self.length % 2 == 0:
            weights[-1] = 1
        there, back = np.stack([np.cos(angles), np.sin(angles)]), weights / self.length
        self.there, self.back = there.astype(np.float32), (back * there).astype(np.float32)

    def angles(self, x: np.ndarray) -> np.ndarray:
        """(U, positions): 2 pi u x / length."""
        return 2 * np.pi * (np.arange(self.u)[:, None] * x % self.length) / self.length

    def of_columns(self, x: str) -> tuple[str, str]:
        """(B, D, H, W) to its products with cosine and sine, (B, D, H, V)."""
        return self._both(lambda kind: [x, self._constant("there", kind, self.there[kind].T)])

    def of_rows(self, x: str) -> tuple[str, str]:
        """(B, D, H, V) to its products with cosine and sine, (B, D, U, V)."""
        return self._both(lambda kind: [self._constant("there", kind, self.there[kind]), x])

    def to_columns(self, cosine: str, sine: str) -> str:
        """Two of (B, F, U, V) to their sum with cosine and sine as weights, (B, F, U, W)."""
        return self.ops.node(
            "Add", list(self._both(lambda kind: [(cosine, sine)[kind], self._constant("back", kind, self.back[kind])]))
        )

    def to_rows(self, cosine: str, sine: str) -> str:
        """Two of (B, F, U, W) to (B, F, H, W), halved: each frequency comes as the sum of its two signs."""
        halved = self.back.transpose(0, 2, 1) / 2
        return self.ops.node(
            "Add", list(self._both(lambda kind: [self._constant("back", kind, halved[kind]), (cosine, sine)[kind]]))
        )

    def _both(self, inputs: Callable[[int], list[str]]) -> tuple[str, str]:
        return self.ops.node("MatMul", inputs(0)), self.ops.node("MatMul", inputs(1))

    def _constant(self, way: str, kind: int, value: np.ndarray) -> str:
        return self.ops.constant(f"{self.name}/{way}/{('cosine', 'sine')[kind]}", value)


def _spectrum(kernel: np.ndarray, down: _Waves, across: _Waves) -> np.ndarray:
    """(Z, D, F) complex: the conjugate transform of a kernel (P, Q, D, F) about its anchor, for +u and then -u."""
    rows = np.exp(1j * down.angles(np.arange(down.taps) - down.anchor))  # (U, P)
    columns = np.exp(1j * across.angles(np.arange(across.taps) - across.anchor))  # (V, Q)
    half = np.einsum("vq,pqdf->pvdf", columns, kernel)
    both = np.stack([np.einsum("up,pvdf->uvdf", waves, half) for waves in (rows, rows.conj())])
    return both.reshape(-1, *kernel.shape[2:])


def _worth_a_transform(picture: tuple[int, int], kernel: tuple[int, ...]) -> bool:
    with target.compiling_for("gpu"):  # whole pictures, no tiles
        direct, dft = (large_conv.flops(picture, kernel, form) for form in ("direct", "dft"))
    return direct >= _WORTH_A_TRANSFORM and dft <= _SMALLER * direct
