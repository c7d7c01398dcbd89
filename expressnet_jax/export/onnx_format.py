"""model.onnx: opset 18, free batch, height and width, resize and normalisation inside; float32, float16 or 8 bits.

Pictures are (B, C, H, W) here, as ONNX wants them.

Why not through jax2onnx: 0.17 asks for an older orbax-checkpoint than the one that writes our checkpoints, brings 25
packages, and leaves a transpose around every convolution. What is written here instead is `network.build`.

Legend: B image, H W height and width, P Q kernel height and width, D in, F out, E experts, K chosen, U V frequencies
from 0 to half, Z = 2 U V all of a picture's.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.errors import DataError
from data_pipelines.common.text import install
from expressnet_jax import target
from expressnet_jax.config import Config, Preprocess
from expressnet_jax.export import artifact, network
from expressnet_jax.models import large_conv

OPSET, IR_VERSION = 18, 8  # the first with an antialiased Resize; the IR of the same release
#: A convolution becomes matrix products with cosines and sines where it is at least so large (FLOP a picture) and they
#: need at most this part of its arithmetic. Measured with onnxruntime 1.31 on two cores, one picture, ms, direct and
#: so: 75 pixels at 224: 390 and 21, 50 at 112: 125 and 11, 25 at 56: 23 and 4; 15 pixels at 224 gain nothing.
_WORTH_A_TRANSFORM, _SMALLER = 1e9, 0.125
#: Input channels up to which spectra are multiplied one by one: as a product of many small matrices, six times slower.
_SUMMED = 4
_AT_ONCE = 16  # pictures that ranges of 8 bits are taken from at once


def write(path: Path, config: Config, weights: Mapping[str, np.ndarray], *, dtype: str = "float32") -> None:
    """Writes the graph. In float16 the router, the experts and the head stay in float32."""
    onnx = require()
    ops = _Onnx(onnx, np.dtype(dtype))
    outputs = network.build(ops, config, weights)
    for name, value in outputs.items():
        ops.node("Identity", [value], name=name)
    classes, kinds, info = len(config.data.classes), onnx.TensorProto, onnx.helper.make_tensor_value_info
    widths = {"probabilities": classes, "logits": classes, "features": len(weights["head/kernel"])}
    described = [
        info(name, kinds.FLOAT if name in widths else kinds.INT32, ["batch", widths.get(name, config.moe.selected)])
        for name in artifact.outputs(config)
    ]
    images = info("images", kinds.UINT8, ["batch", "height", "width", 3])
    constants = list(ops.initializers.values())
    model = onnx.helper.make_model(
        onnx.helper.make_graph(ops.nodes, "expressnet", [images], described, constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="expressnet_jax",
    )  # fmt: skip
    properties = {"classes": config.data.classes, "preprocessing": artifact.preprocessing(config)}
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in properties.items()})
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
    """The package onnx. Raises DataError where it or onnxruntime is missing."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise DataError(f"ONNX needs the package {error.name}; run: {install('onnx')}") from None
    return onnx


def quantize(source: Path, path: Path, pictures: np.ndarray) -> None:
    """Writes a float32 graph with its convolutions in 8 bits, by onnxruntime's own tool.

    Weights are signed, symmetric, a scale for each channel; activations unsigned, their ranges taken from real
    `pictures` (B, H, W, 3) uint8. Everything else stays in float32: routers and experts, convolutions that are matrix
    products with cosines, and dense layers too, with which the accuracy of the small network on FER-2013 fell from 62
    to 40 % (without: 61.5 %).
    """
    require()
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


_Input = str | list[int] | np.ndarray  # a value by its name, or a constant


class _Onnx:
    """`network.Ops` as ONNX nodes; a value is its name."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.sides: dict[str, tuple[int, int]] = {}  # (height, width) of pictures

    def node(self, op: str, inputs: Sequence[_Input], *, name: str = "", **attributes: Any) -> str:
        """Adds a node; its output, the last where an operator has two, has its name. Inputs may be constants."""
        name = name or f"{op.lower()}_{len(self.nodes)}"
        names = []
        for i, given in enumerate(inputs):
            if isinstance(given, list):
                given = self.constant(f"integers/{'_'.join(map(str, given))}", np.array(given))
            names.append(self.constant(f"{name}/input{i}", given) if isinstance(given, np.ndarray) else given)
        outputs = [f"{name}/values", name] if op == "TopK" else [name]
        self.nodes.append(self.onnx.helper.make_node(op, names, outputs, name=f"node/{name}", **attributes))
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
        sizes = self.node("Concat", [kept, [size, size]], axis=0)
        # Beyond the edge there is nothing, rather than the last pixel, as in `jax.image.resize` and Pillow.
        x = self.node(
            "Resize", [x, "", "", sizes], mode="linear", coordinate_transformation_mode="half_pixel",
            antialias=int(config.antialias), exclude_outside=int(config.antialias),
        )  # fmt: skip
        for what, by in network.normalization(config):
            y: str | np.ndarray = by.reshape(1, -1, 1, 1)
            if what == "standardize":
                x = self.node("Sub", [x, self.node("ReduceMean", [x, [1, 2, 3]])])  # (B, C, S, S)
                variance = self.node("ReduceMean", [self.node("Mul", [x, x]), [1, 2, 3]])  # (B, 1, 1, 1)
                y = self.node("Add", [self.node("Sqrt", [variance]), y])
            x = self.node("Sub" if what == "subtract" else "Div", [x, y])
        if config.color_order == "bgr":
            x = self.node("Gather", [x, [2, 1, 0]], axis=1)
        return self._picture(self._cast(x, self.dtype), (size, size))

    def conv(
        self, name: str, x: str, kernel: np.ndarray, bias: np.ndarray, stride: int = 1, *, even: bool = False
    ) -> str:
        side, taps = self.sides[x], kernel.shape[:2]
        if stride == 1 and self.dtype == np.float32 and _worth_a_transform(side, kernel.shape):
            biases = self.constant(f"{name}/bias", bias.reshape(1, -1, 1, 1))
            return self._picture(self.node("Add", [self._transformed(name, x, kernel), biases]), side)
        result = tuple(-(-pixels // stride) for pixels in side)
        padding = [max(0, (n - 1) * stride + p - pixels) for n, p, pixels in zip(result, taps, side, strict=True)]
        # The larger half at the bottom and right, as in TensorFlow.
        pads = [n // 2 for n in padding] + [n - n // 2 for n in padding]
        if even and stride > 1:
            pads = 2 * [p // 2 for p in taps]
        weight = self._weight(f"{name}/kernel", kernel.transpose(3, 2, 0, 1))
        inputs = [x, weight, self._weight(f"{name}/bias", bias)]
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
        return self._cast(self.node("ReduceMean", [x, [2, 3]], keepdims=0), np.dtype(np.float32))

    def flatten(self, x: str) -> str:
        return self.node("Flatten", [self.node("Transpose", [x], perm=[0, 2, 3, 1])])

    def dense(self, name: str, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        of_pictures = name == "cnnfe1/dense"  # what all others read is float32 already
        weight = self._weight if of_pictures else self.constant
        y = self.node("Gemm", [x, weight(f"{name}/kernel", kernel), weight(f"{name}/bias", bias)], name=name)
        return self._cast(y, np.dtype(np.float32)) if of_pictures else y

    def relu(self, x: str) -> str:
        return self._like(x, self.node("Relu", [x]))

    def add(self, x: str, y: str | np.ndarray) -> str:
        return self._like(x, self.node("Add", [x, y]))

    def concat(self, values: list[str]) -> str:
        return self.node("Concat", values, axis=-1)

    def softmax(self, x: str) -> str:
        return self.node("Softmax", [x], axis=-1)

    def top_k(self, x: str, k: int) -> str:
        return self._cast(self.node("TopK", [x, [k]]), np.dtype(np.int32))

    def take(self, x: str, chosen: str) -> str:
        return self.node("GatherElements", [x, chosen], axis=1)

    def divide_by_sum(self, x: str) -> str:
        return self.node("Div", [x, self.node("ReduceSum", [x, [-1]])])

    def experts(self, name: str, x: str, layers: network.Layers, chosen: str, gates: str) -> str:
        rows = self.node("Unsqueeze", [x, [0]])  # (1, B, D)
        for number, (kernel, bias) in enumerate(layers, start=1):
            rows = self.node("MatMul", [rows, self.constant(f"{name}/layer{number}/kernels", kernel)])  # (E, B, F)
            rows = self.node("Add", [rows, self.constant(f"{name}/layer{number}/biases", bias[:, None])])
            rows = self.node("Relu", [rows])
        shape = self.node("Concat", [self.node("Shape", [x], end=1), [len(layers[0][0])]], axis=0)
        none = self.node("ConstantOfShape", [shape])  # (B, E) of 0
        weights = self.node("ScatterElements", [none, chosen, gates], axis=1)
        weights = self.node("Transpose", [self.node("Unsqueeze", [weights, [-1]])], perm=[1, 0, 2])  # (E, B, 1)
        return self.node("ReduceSum", [self.node("Mul", [rows, weights]), [0]], name=name, keepdims=0)

    def _transformed(self, name: str, x: str, kernel: np.ndarray) -> str:
        """A SAME convolution of stride 1 by the convolution theorem: see `models.large_conv`, whose `dft` this is.

        ONNX has no complex numbers: real and imaginary parts are values of their own.
        """
        (height, width), (p, q) = self.sides[x], kernel.shape[:2]
        down, across = _Waves(self, f"{name}/down", height, p), _Waves(self, f"{name}/across", width, q)
        cosine, sine = across.there(x)  # (B, D, H, V)
        (cc, sc), (cs, ss) = down.there(cosine), down.there(sine)  # (B, D, U, V)
        real = self.node("Concat", [self.node("Sub", [cc, ss]), self.node("Add", [cc, ss])], axis=2)  # (B, D, 2U, V)
        imaginary = [self.node("Neg", [self.node("Add", [cs, sc])]), self.node("Sub", [sc, cs])]
        spectrum = _spectrum(kernel.astype(np.float64), down, across)  # (Z, D, F)
        product = self._products(name, real, self.node("Concat", imaginary, axis=2), spectrum, (2 * down.u, across.u))
        (plus_re, minus_re), (plus_im, minus_im) = (
            [self.node("Slice", [part, [at], [at + down.u], [2]]) for at in (0, down.u)] for part in product
        )
        cc, ss = self.node("Add", [plus_re, minus_re]), self.node("Sub", [minus_re, plus_re])
        cs, sc = self.node("Neg", [self.node("Add", [plus_im, minus_im])]), self.node("Sub", [minus_im, plus_im])
        cosine, sine = across.back(cc, cs), across.back(sc, ss)  # (B, F, U, W)
        return self._picture(down.back(cosine, sine), (height, width))

    def _products(
        self, name: str, real: str, imaginary: str, spectrum: np.ndarray, shape: tuple[int, int]
    ) -> tuple[str, str]:
        """Real and imaginary part (B, F, 2U, V) of the product of (B, D, 2U, V) with a spectrum (Z, D, F)."""
        z, d, f = spectrum.shape
        summed = d <= _SUMMED
        if summed:
            spectrum = spectrum.transpose(1, 2, 0).reshape(1, d, f, *shape)
            left = [self.node("Unsqueeze", [x, [2]]) for x in (real, imaginary)]  # (B, D, 1, 2U, V)
        else:
            flat = [self.node("Reshape", [x, [-1, d, z]]) for x in (real, imaginary)]
            left = [self.node("Transpose", [x], perm=[2, 0, 1]) for x in flat]  # (Z, B, D)
        right = [
            self.constant(f"{name}/spectrum/{part}", value.astype(np.float32))
            for part, value in (("real", spectrum.real), ("imaginary", spectrum.imag))
        ]
        (rr, ri), (ir, ii) = ([self.node("Mul" if summed else "MatMul", [x, y]) for y in right] for x in left)
        parts = [self.node("Sub", [rr, ii]), self.node("Add", [ir, ri])]
        if summed:
            parts = [self.node("ReduceSum", [x, [1]], keepdims=0) for x in parts]
        else:
            turned = [self.node("Transpose", [x], perm=[1, 2, 0]) for x in parts]
            parts = [self.node("Reshape", [x, [-1, f, *shape]]) for x in turned]
        return parts[0], parts[1]

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
    """Cosines and sines along one axis of a picture, and the products with them.

    Waves down a picture are multiplied from the left, waves across it from the right.
    """

    def __init__(self, ops: _Onnx, name: str, pixels: int, taps: int) -> None:
        self.ops, self.down, self.taps, self.anchor = ops, name.endswith("/down"), taps, (taps - 1) // 2
        self.length = max(pixels + taps // 2, taps)  # circular; what wraps around falls outside the picture
        self.u = self.length // 2 + 1
        angles = self.angles(np.arange(pixels))  # (U, pixels)
        weights = np.full((self.u, 1), 2.0)  # how often a frequency counts; half of it in each of two signs
        weights[0] = 1
        if self.length % 2 == 0:
            weights[-1] = 1
        self.constants = {}
        for kind, there in (("cosine", np.cos(angles)), ("sine", np.sin(angles))):
            back = weights / self.length * there
            # Halved down a picture: each frequency comes as the sum of its two signs.
            there, back = (there, back.T / 2) if self.down else (there.T, back)
            for way, value in (("there", there), ("back", back)):
                self.constants[way, kind] = ops.constant(f"{name}/{way}/{kind}", value.astype(np.float32))

    def angles(self, x: np.ndarray) -> np.ndarray:
        """(U, positions): 2 pi u x / length."""
        return 2 * np.pi * (np.arange(self.u)[:, None] * x % self.length) / self.length

    def there(self, x: str) -> tuple[str, str]:
        """Pixels along the axis to frequencies: the products with cosine and sine."""
        return self._product(x, "there", "cosine"), self._product(x, "there", "sine")

    def back(self, cosine: str, sine: str) -> str:
        """Frequencies along the axis to pixels: the sum of the two products."""
        return self.ops.node("Add", [self._product(cosine, "back", "cosine"), self._product(sine, "back", "sine")])

    def _product(self, x: str, way: str, kind: str) -> str:
        waves = self.constants[way, kind]
        return self.ops.node("MatMul", [waves, x] if self.down else [x, waves])


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
