"""saved_model/: a TensorFlow SavedModel of plain TensorFlow operations, with free batch, height and width.

Why not through jax2tf: TensorFlow 2.21 cannot run what jax 0.10 makes of `top_k` with a free batch size, and what is an
XLA program inside cannot become TensorFlow Lite. What is written here instead is `network.build`.

Legend: B image, H W height and width, D in, F out, E experts, K chosen.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.errors import DataError
from data_pipelines.common.text import install
from expressnet_jax.config import Config, Preprocess
from expressnet_jax.export import network


def write(folder: Path, config: Config, weights: Mapping[str, np.ndarray]) -> None:
    """Writes the SavedModel, which can be called, and has the one signature `serving_default`: images -> outputs by
    name."""
    tf = require()
    module = tf.Module()
    ops = _TensorFlow(tf)
    images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")

    def call(images: Any) -> dict[str, Any]:
        ops.images = images
        return {name: tf.identity(value, name) for name, value in network.build(ops, config, weights).items()}

    module.__call__ = tf.function(call, input_signature=[images], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})


def load(folder: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The graph as a function from images (B, H, W, 3) uint8 to outputs by name, run by TensorFlow."""
    tf = require()
    loaded = tf.saved_model.load(str(folder))  # it must outlive its signature
    return lambda images: {
        name: value.numpy() for name, value in loaded.signatures["serving_default"](images=tf.constant(images)).items()
    }


def require() -> Any:
    """TensorFlow, on the CPU alone. Raises DataError where it is missing."""
    try:
        import tensorflow as tf
    except ImportError:
        raise DataError(f"SavedModel needs TensorFlow; run: {install('savedmodel')}") from None
    with contextlib.suppress(RuntimeError):  # raised where our caller uses TensorFlow already
        tf.config.set_visible_devices([], "GPU")  # it would take all of the memory that JAX computes in
    return tf


class _TensorFlow:
    """`network.Ops` as TensorFlow operations."""

    def __init__(self, tf: Any) -> None:
        self.tf = tf
        self.images: Any = None
        self.relu, self.softmax, self.add = tf.nn.relu, tf.nn.softmax, tf.add
        self.mean = functools.partial(tf.reduce_mean, axis=[1, 2])
        self.concat = functools.partial(tf.concat, axis=-1)
        self.take = functools.partial(tf.gather, batch_dims=1)

    def pictures(self, size: int, config: Preprocess) -> Any:
        tf = self.tf
        x = tf.image.resize(tf.cast(self.images, tf.float32), [size, size], "bilinear", antialias=config.antialias)
        for what, by in network.normalization(config):
            if what == "standardize":
                x = x - tf.reduce_mean(x, [1, 2, 3], keepdims=True)
                by = tf.math.reduce_std(x, [1, 2, 3], keepdims=True) + by  # (B, 1, 1, 1)
            x = x - by if what == "subtract" else x / by
        return tf.reverse(x, [-1]) if config.color_order == "bgr" else x

    def conv(
        self, name: str, x: Any, kernel: np.ndarray, bias: np.ndarray, stride: int = 1, *, even: bool = False
    ) -> Any:
        padding: Any = "SAME"
        if even and stride > 1:
            padding = [[0, 0], *([size // 2] * 2 for size in kernel.shape[:2]), [0, 0]]
        return self.tf.nn.bias_add(self.tf.nn.conv2d(x, kernel, stride, padding, name=name), bias)

    def affine(self, name: str, x: Any, scale: np.ndarray, shift: np.ndarray) -> Any:
        return x * scale + shift

    def max_pool(self, x: Any, window: int, *, padding: int = 0) -> Any:
        if padding:
            x = self.tf.pad(x, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]])
        return self.tf.nn.max_pool2d(x, window, 2, "VALID")

    def flatten(self, x: Any) -> Any:
        return self.tf.reshape(x, [-1, np.prod(x.shape[1:])])

    def dense(self, name: str, x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        return self.tf.nn.bias_add(self.tf.matmul(x, kernel, name=name), bias)

    def top_k(self, x: Any, k: int) -> Any:
        return self.tf.math.top_k(x, k).indices

    def divide_by_sum(self, x: Any) -> Any:
        return x / self.tf.reduce_sum(x, -1, keepdims=True)

    def experts(self, name: str, x: Any, layers: network.Layers, chosen: Any, gates: Any) -> Any:
        tf, rows = self.tf, x[None]  # (1, B, D)
        for kernel, bias in layers:
            rows = tf.nn.relu(tf.matmul(rows, kernel) + bias[:, None])  # (E, B, F)
        weights = tf.reduce_sum(tf.one_hot(chosen, layers[0][0].shape[0]) * gates[..., None], 1)  # (B, E)
        return tf.einsum("be,ebf->bf", weights, rows)
