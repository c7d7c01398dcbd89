"""The few layers that all branches share. Parameters keep float32; `dtype` is that of the activations.

Legend: B image, H W height and width, D in, F out, N pixels of all images.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from expressnet_jax import target
from expressnet_jax.config import Model
from expressnet_jax.models import choice, large_conv

KERNEL_INIT = nnx.initializers.glorot_uniform()  # Keras's default, and so the published one


def param_dtype(config: Model) -> jnp.dtype:
    """float32, or float64 where the whole network is computed in it (the golden tests)."""
    return jnp.promote_types(config.dtype, jnp.float32)


class Conv(nnx.Module):
    """SAME convolution, (B, H, W, D) -> (B, H/stride, W/stride, F), with TensorFlow's padding.

    `name` is the one that `model.convolution` may give a form of its own to.
    """

    def __init__(
        self, config: Model, name: str, d: int, f: int, size: int, *,
        stride: int = 1, bias: bool = True, even: bool = False, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.padding: Any = ((size // 2, size // 2),) * 2 if even else "SAME"
        self.stride, self.dtype, self.form = stride, jnp.dtype(config.dtype), choice.asked(config.convolution, name)
        kind = param_dtype(config)
        self.kernel = nnx.Param(KERNEL_INIT(rngs.params(), (size, size, d, f), kind))
        self.bias = nnx.data(nnx.Param(jnp.zeros((f,), kind)) if bias else None)
        self.spectrum: Any = nnx.data(None)  # a Param (Z, D, F), once `inference.prepare` was here

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        # A grey picture comes with one channel, whose equal copies are counted once: (P, Q, D, F) -> (P, Q, 1, F).
        kernel = self.kernel[...].sum(2, keepdims=True) if x.shape[-1] == 1 else self.kernel[...]
        if self.spectrum is not None:
            spectrum = self.spectrum[...].sum(1, keepdims=True) if x.shape[-1] == 1 else self.spectrum[...]
            y = large_conv.multiply_spectra(x, spectrum, kernel.shape[:2], self.form)
        elif self.stride == 1:
            y = large_conv.conv2d(x, kernel, self.form or choice.fastest(x.shape[1:3], kernel.shape, train=train))
        elif kernel.shape[0] == 1:
            y = large_conv.conv2d(x[:, :: self.stride, :: self.stride], kernel, "direct")
        else:
            y = large_conv.direct_conv2d(x, kernel, self.stride, self.padding)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class BatchNorm(nnx.Module):
    """BatchNorm over all pixels, with Keras's meaning of momentum and the biased batch variance, in float32.

    Under jit with a sharded batch its statistics are those of the global batch; with `model.batchnorm_group`, of each
    group of so many neighbours in the batch that it is given ("ghost batches", Hoffer et al. 2017). The moving
    statistics then take the mean over groups of the groups' means and variances: what a picture was normalized by on
    average, not the variance of the whole batch, which is larger by that of the groups' means.
    """

    def __init__(self, config: Model, f: int) -> None:
        kind = param_dtype(config)
        self.momentum, self.epsilon = config.batchnorm_momentum, config.batchnorm_epsilon
        self.group = config.batchnorm_group
        self.scale, self.bias = nnx.Param(jnp.ones((f,), kind)), nnx.Param(jnp.zeros((f,), kind))
        self.mean, self.var = nnx.BatchStat(jnp.zeros((f,), kind)), nnx.BatchStat(jnp.ones((f,), kind))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """(B, H, W, F) -> (B, H, W, F), by the batch's statistics in training and the stored ones otherwise."""
        # (N, F): XLA's CPU reductions take half the time over one axis. On a TPU merging axes would move every pixel.
        flat = x.reshape(-1, x.shape[-1]) if target.platform() == "cpu" else x
        if train and self.group not in (0, x.shape[0]):
            flat = self._by_groups(flat, x.shape[0] // self.group)
        elif train:
            mean, var = self._statistics(flat, 0)
            self._remember(mean, var)
            flat = normalize(flat, mean, lax.rsqrt(var + self.epsilon), self.scale[...], self.bias[...])
        else:
            factor = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
            flat = (flat * factor + (self.bias[...] - self.mean[...] * factor)).astype(x.dtype)
        return flat.reshape(x.shape)

    def _by_groups(self, flat: jax.Array, groups: int) -> jax.Array:
        """(N, F) or (B, H, W, F) -> (G, N/G, F) or (G, B/G, H, W, F), each of the G groups by its own statistics.

        Where the devices divide G no group lies on two of them, and no layer waits for statistics from elsewhere.
        """
        parts = flat.reshape(groups, flat.shape[0] // groups, *flat.shape[1:])
        mean, var = self._statistics(parts, 1)  # (G, F)
        self._remember(mean.mean(0), var.mean(0))
        each = jax.vmap(normalize, (0, 0, 0, None, None))
        return each(parts, mean, lax.rsqrt(var + self.epsilon), self.scale[...], self.bias[...])

    def _statistics(self, x: jax.Array, first: int) -> tuple[jax.Array, jax.Array]:
        """Mean and biased variance over all axes but the last and those before `first`."""
        wide, pixels = lax.stop_gradient(x).astype(self.scale.dtype), tuple(range(first, x.ndim - 1))
        mean = wide.mean(pixels)
        return mean, jnp.maximum((wide * wide).mean(pixels) - mean * mean, 0)

    def _remember(self, mean: jax.Array, var: jax.Array) -> None:
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var


@jax.custom_vjp
def normalize(x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) * inverse * scale + bias, whose gradient knows that mean and inverse are those of x.

    Args: x (..., F); mean, 1 / deviation, scale and bias (F,). The gradient, to x, scale and bias, is that of BatchNorm
    as a whole (Ioffe and Szegedy 2015, section 3): two passes over x and its cotangent, where automatic
    differentiation takes five.
    """
    return ((x - mean) * (inverse * scale) + bias).astype(x.dtype)


def _normalize_forward(
    x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return normalize(x, mean, inverse, scale, bias), (x, mean, inverse, scale)


def _normalize_backward(kept: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array | None, ...]:
    x, mean, inverse, scale = kept
    wide, normal, pixels = g.astype(scale.dtype), (x - mean) * inverse, tuple(range(x.ndim - 1))  # (..., F)
    d_bias, d_scale, n = wide.sum(pixels), (wide * normal).sum(pixels), x.size // x.shape[-1]
    d_x = (scale * inverse) * (wide - d_bias / n - normal * (d_scale / n))
    return d_x.astype(x.dtype), None, None, d_scale, d_bias


normalize.defvjp(_normalize_forward, _normalize_backward)


def dense(config: Model, d: int, f: int, rngs: nnx.Rngs) -> tuple[nnx.Linear, BatchNorm | None]:
    """(B, D) -> (B, F), and the BatchNorm to follow it, which brings the bias, if the config has one there."""
    kinds: Any = {"dtype": jnp.dtype(config.dtype), "param_dtype": param_dtype(config)}
    bn = BatchNorm(config, f) if config.dense_batchnorm else None
    return nnx.Linear(d, f, use_bias=bn is None, kernel_init=KERNEL_INIT, rngs=rngs, **kinds), bn


def after_dense(x: jax.Array, bn: BatchNorm | None, rate: float, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    """BatchNorm where there is one, relu, dropout: (B, F) -> (B, F)."""
    return dropout(jax.nn.relu(x if bn is None else bn(x, train=train)), rate, rngs)


def dropout(x: jax.Array, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
    """Sets a fraction `rate` of the entries to 0 and scales the rest; without `rngs` (inference) returns x.

    Every entry's fate is a hash of its number in x and of a key, the same for any sharding. JAX's own generator is
    made for more than this and takes 76 ms for the 6.4 million entries of one map of the paper's network on two CPU
    cores, a few percent of the whole step; this takes 9.
    """
    if rngs is None or rate == 0:
        return x
    first, second = jax.random.bits(rngs.dropout(), (2,), jnp.uint32)
    keep, bits = 1 - rate, hash32(hash32(_numbers(x.shape) ^ first) + second)
    return jnp.where(bits < jnp.uint32(min(round(keep * 2**32), 2**32 - 1)), x / keep, 0).astype(x.dtype)


def _numbers(shape: tuple[int, ...]) -> jax.Array:
    """0, 1, 2, ... in row-major order as uint32 of this shape (from 2^32 on, again from 0)."""
    numbers, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        numbers += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return numbers


def hash32(x: jax.Array) -> jax.Array:
    """A bijection of uint32 in which every input bit changes every output bit half of the time.

    Two rounds of multiply and xor-shift, the constants being those that Chris Wellons's "hash prospector" (2018) found
    to have the least bias of this form.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def max_pool(x: jax.Array, window: int) -> jax.Array:
    """Max pool with stride 2 and no padding, for a window of 2 or 3: (B, H, W, F) -> (B, H', W', F).

    By pairwise maxima of even and odd rows, then columns. On a CPU that is six to nine times faster forward and
    backward than a window reduction, whose gradient is a scatter; compiled for an H100 it moves 0.36 of the bytes for a
    window of 2, and 0.56 for 3. A TPU would move every pixel to split an axis so: 1.9 times the bytes.
    """
    if target.platform() == "tpu":
        return nnx.max_pool(x, window_shape=(window, window), strides=(2, 2), padding="VALID")
    return _max_pool_axis(_max_pool_axis(x, window, 1), window, 2)


def _max_pool_axis(x: jax.Array, window: int, axis: int) -> jax.Array:
    count, pairs = (x.shape[axis] - window) // 2 + 1, -(-x.shape[axis] // 2)
    if x.shape[axis] % 2:  # an odd last row: alone in its pair, whose other half is never looked at
        x = jnp.pad(x, [(0, axis_ == axis) for axis_ in range(x.ndim)])
    split = x.reshape(*x.shape[:axis], pairs, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(split, i, axis + 1, keepdims=False) for i in (0, 1))
    largest = _larger(lax.slice_in_dim(even, 0, count, axis=axis), lax.slice_in_dim(odd, 0, count, axis=axis))
    if window == 2:
        return largest
    return _larger(largest, lax.slice_in_dim(even, 1, count + 1, axis=axis))


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """The maximum, whose whole gradient goes to one of the two, the first of equals, as in a window reduction.

    The gradient of `jnp.maximum`, and of `max` over an axis, goes to what equals the result. Where a compiler computes
    a value twice, once with a rounding less, nothing does, and the gradient is lost: in a program of this network that
    was compiled without most optimizations it was off by half of its largest value.
    """
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
