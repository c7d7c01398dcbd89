"""The network at inference, once more, in the few operations that every runtime has, for graphs that JAX cannot write.

It is written from the weights by canonical name alone, with the ResNet's BatchNorm folded into the convolutions. Each
graph made of it is run and compared with the JAX network before an export is done (`compare`), so the two cannot part.

Legend: B image, S picture side, H W height and width, P Q kernel height and width, D in, F out, E experts, K chosen.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from expressnet_jax.config import Config, Extractor, Preprocess
from expressnet_jax.export import artifact
from expressnet_jax.models import branches, expressnet, preprocess

Weights = Mapping[str, np.ndarray]
Layers = list[tuple[np.ndarray, np.ndarray]]


class Ops(Protocol):
    """What a runtime's graph is built with. `Any` is a value in the graph; arrays are NumPy constants, float32.

    `name` says which part of the network a constant belongs to. What `mean` and `dense` give is float32, also where a
    graph computes pictures in less.
    """

    def pictures(self, size: int, config: Preprocess) -> Any:
        """The graph's input, uint8 (B, H, W, 3) in RGB, resized and normalised: S x S pictures."""

    def conv(
        self, name: str, x: Any, kernel: np.ndarray, bias: np.ndarray, stride: int = 1, *, even: bool = False
    ) -> Any:
        """SAME convolution with a kernel (P, Q, D, F), padded as TensorFlow does, or alike on both sides (`even`)."""

    def affine(self, name: str, x: Any, scale: np.ndarray, shift: np.ndarray) -> Any:
        """x * scale + shift for each channel."""

    def max_pool(self, x: Any, window: int, *, padding: int = 0) -> Any:
        """Stride 2, with `padding` pixels of 0 on every side; x is never below 0 where there are any."""

    def mean(self, x: Any) -> Any:
        """Pictures to (B, D), their mean over all pixels."""

    def flatten(self, x: Any) -> Any:
        """Pictures to (B, H * W * D), the channels innermost."""

    def dense(self, name: str, x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        """(B, D) to (B, F)."""

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""

    def add(self, x: Any, y: Any) -> Any:
        """x + y; y may be an array."""

    def concat(self, values: list[Any]) -> Any:
        """Along the last axis."""

    def softmax(self, x: Any) -> Any:
        """Over the last axis of (B, D)."""

    def top_k(self, x: Any, k: int) -> Any:
        """Positions (B, K) int32 of the largest of (B, E), the largest first, the first of equal ones first."""

    def take(self, x: Any, chosen: Any) -> Any:
        """Values (B, K), numbers of any type, of (B, E) at `chosen`."""

    def divide_by_sum(self, x: Any) -> Any:
        """(B, K) over its sum along K."""

    def experts(self, name: str, x: Any, layers: Layers, chosen: Any, gates: Any) -> Any:
        """(B, D) to the sum (B, F) of gates (B, K) times the answers of the chosen experts.

        layers: kernel (E, D, F) and bias (E, F) of each.
        """


def build(ops: Ops, config: Config, weights: Weights) -> dict[str, Any]:
    """Writes the network with `ops`; returns its outputs by the names of `artifact.answer`."""
    images, model = ops.pictures(config.model.image_size, config.preprocess), config.model
    found: dict[str, Any] = {}
    if "resnet" in model.parts:
        found["resnet"] = _resnet(ops, config, weights, images)
    if "cnnfe1" in model.parts:
        cnnfe1 = ops.flatten(_blocks(ops, config, weights, "cnnfe1", model.cnnfe1, images))
        found["cnnfe1"] = _dense(ops, config, weights, "cnnfe1/dense", cnnfe1)
    if "cnnfe2" in model.parts:
        found["cnnfe2"] = ops.mean(_blocks(ops, config, weights, "cnnfe2", model.cnnfe2, images))
    if "fuse" in model.parts:
        joined = ops.concat([found[name] for name in ("cnnfe2", "resnet") if name in found])
        found["fuse"] = _dense(ops, config, weights, "fuse/dense", joined)
    experts = {}
    for name, read in (("moe_cnn", "cnnfe1"), ("moe_expression", "fuse")):
        if name in model.parts:
            found[name], chosen = _moe(ops, config, weights, name, found[read])
            experts[artifact.chosen_by(name)] = chosen
    features = ops.concat([found[name] for name in expressnet.head_inputs(config)])
    logits = ops.dense("head", features, *_pair(weights, "head"))
    return {"probabilities": ops.softmax(logits), "logits": logits, "features": features} | experts


def normalization(config: Preprocess) -> list[tuple[str, np.ndarray]]:
    """What is done to RGB pictures in 0..255, in turn: ("divide" or "subtract", by () or, each channel, (3,)), or
    ("standardize", c): minus the picture's own mean, over its deviation + c.

    The channels' order is changed after it.
    """
    mean, std = preprocess.IMAGENET_RGB if config.normalize == "imagenet" else (config.mean, config.std)
    steps: dict[str, list[tuple[str, Any]]] = {
        "unit": [("divide", 255)], "vggface2": [("subtract", preprocess.VGGFACE2_MEAN_BGR[::-1])],
        "per_image": [("standardize", preprocess.FLAT)],
    }  # fmt: skip
    found = steps.get(config.normalize, [("divide", 255), ("subtract", mean), ("divide", std)])
    return [(what, np.array(by, np.float32)) for what, by in found]


def _blocks(ops: Ops, config: Config, weights: Weights, branch: str, spec: Extractor, x: Any) -> Any:
    """conv -> relu -> BatchNorm -> pool. BatchNorm stays, since it follows a relu and zeros pad the next layer."""
    for i in range(1, len(spec.kernels) + 1):
        stride = spec.stride if i == 1 else 1
        x = ops.relu(ops.conv(f"{branch}/conv{i}", x, *_pair(weights, f"{branch}/conv{i}"), stride))
        x = ops.affine(f"{branch}/bn{i}", x, *_batch_norm(config, weights, f"{branch}/bn{i}"))
        x = ops.max_pool(x, 2) if spec.pooled(i) else x
    return x


def _resnet(ops: Ops, config: Config, weights: Weights, x: Any) -> Any:
    spec = config.model.resnet
    late = spec.form == "torchvision"  # strides in the 3x3 convolutions, and padding alike on both sides

    def conv(name: str, x: Any, stride: int = 1) -> Any:
        return ops.conv(name, x, *_folded(config, weights, name), stride, even=late)

    x = ops.relu(conv("resnet/conv1", x, spec.stem_stride))
    if spec.stem_pool:
        x = ops.max_pool(x, 3, padding=int(late))
    for stage, number, _, _ in branches.blocks(spec):
        block, stride = f"resnet/stage{stage}/block{number}", 2 if number == 1 and stage > 2 else 1
        y = ops.relu(conv(f"{block}/reduce", x, 1 if late else stride))
        y = ops.relu(conv(f"{block}/conv3", y, stride if late else 1))
        y = conv(f"{block}/increase", y)
        x = ops.relu(ops.add(y, conv(f"{block}/proj", x, stride) if number == 1 else x))
    return ops.mean(x)


def _dense(ops: Ops, config: Config, weights: Weights, name: str, x: Any) -> Any:
    """A dense layer with its BatchNorm, if it has one, and relu: (B, D) -> (B, F)."""
    pair = _folded(config, weights, name) if config.model.dense_batchnorm else _pair(weights, name)
    return ops.relu(ops.dense(name, x, *pair))


def _moe(ops: Ops, config: Config, weights: Weights, name: str, x: Any) -> tuple[Any, Any]:
    """The layer's answer (B, F) and the experts chosen (B, K)."""
    moe = config.moe
    probabilities = ops.softmax(ops.dense(f"{name}/gate", x, *_pair(weights, f"{name}/gate")))
    bias = f"{name}/selection_bias"
    scores = ops.add(probabilities, weights[bias]) if bias in weights else probabilities
    chosen = ops.top_k(scores, moe.selected)
    gates = ops.take(probabilities, chosen)
    if bias in weights:  # as in moe/router.py, the likeliest first again
        order = ops.top_k(gates, moe.selected)
        chosen, gates = ops.take(chosen, order), ops.take(gates, order)
    gates = ops.divide_by_sum(gates) if moe.renormalize else gates
    layers = []
    for number in range(1, moe.layers + 1):
        suffix = "" if number == 1 else f"/layer{number}"
        pairs = [_pair(weights, f"{name}/expert{e}{suffix}") for e in range(moe.num_experts)]
        layers.append((np.stack([kernel for kernel, _ in pairs]), np.stack([bias for _, bias in pairs])))
    return ops.experts(name, x, layers, chosen, gates), chosen


def _pair(weights: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    return weights[f"{name}/kernel"], weights[f"{name}/bias"]


def _folded(config: Config, weights: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a layer that is followed by a BatchNorm and has no bias of its own, as one layer."""
    factor, shift = _batch_norm(config, weights, f"{name}_bn")
    return (weights[f"{name}/kernel"] * factor.astype(np.float64)).astype(np.float32), shift


def _batch_norm(config: Config, weights: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    """BatchNorm at inference as (factor, shift), each (F,)."""
    gamma, beta, mean, var = (weights[f"{name}/{leaf}"].astype(np.float64) for leaf in ("gamma", "beta", "mean", "var"))
    factor = gamma / np.sqrt(var + config.model.batchnorm_epsilon)
    return factor.astype(np.float32), (beta - mean * factor).astype(np.float32)
