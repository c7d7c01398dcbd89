"""The few layers that all branches share. Parameters keep float32; `dtype` is that of the activations.

Legend: B image, H W height and width, D in, F out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from expressnet_jax.config import Model
from expressnet_jax.models.large_conv import conv2d

KERNEL_INIT = nnx.initializers.glorot_uniform()  # Keras's default, and so the published one


def param_dtype(config: Model) -> jnp.dtype:
    """float32, or float64 where the whole network is computed in it (the golden tests)."""
    return jnp.promote_types(config.dtype, jnp.float32)


class Conv(nnx.Module):
    """SAME convolution, (B, H, W, D) -> (B, H/stride, W/stride, F), with TensorFlow's padding."""

    def __init__(
        self, config: Model, d: int, f: int, size: int, *, stride: int = 1, bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        self.stride, self.dtype, self.form = stride, jnp.dtype(config.dtype), config.convolution
        kind = param_dtype(config)
        self.kernel = nnx.Param(KERNEL_INIT(rngs.params(), (size, size, d, f), kind))
        self.bias = nnx.Param(jnp.zeros((f,), kind)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(self.dtype)
        if self.stride > 1 and kernel.shape[0] == 1:
            y = conv2d(x[:, :: self.stride, :: self.stride], kernel, self.form)
        elif self.stride > 1:
            strides = (self.stride, self.stride)
            y = lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        else:
            y = conv2d(x, kernel, self.form)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class BatchNorm(nnx.BatchNorm):
    """BatchNorm over all pixels, with Keras's meaning of momentum and the biased batch variance, in float32.

    Under jit with a sharded batch its statistics are those of the global batch. The pixels are laid out flat, since
    XLA's CPU reductions (there are five in its gradient) take half the time over one axis than over three.
    """

    def __init__(self, config: Model, f: int, rngs: nnx.Rngs) -> None:
        kind = param_dtype(config)
        super().__init__(
            f,
            momentum=config.batchnorm_momentum,
            epsilon=config.batchnorm_epsilon,
            dtype=jnp.dtype(config.dtype),
            param_dtype=kind,
            rngs=rngs,
        )
        # nnx makes the statistics float32 whatever param_dtype says.
        self.mean, self.var = nnx.BatchStat(jnp.zeros((f,), kind)), nnx.BatchStat(jnp.ones((f,), kind))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # type: ignore[override]
        """(B, H, W, F) -> (B, H, W, F), by the batch's statistics in training and the stored ones otherwise."""
        flat = super().__call__(x.reshape(-1, x.shape[-1]), use_running_average=not train)
        return flat.reshape(x.shape)


def dense(config: Model, d: int, f: int, rngs: nnx.Rngs) -> nnx.Linear:
    """(B, D) -> (B, F)."""
    return nnx.Linear(
        d, f, dtype=jnp.dtype(config.dtype), param_dtype=param_dtype(config), kernel_init=KERNEL_INIT, rngs=rngs
    )


def dropout(x: jax.Array, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
    """Sets a fraction `rate` of the entries to 0 and scales the rest; without `rngs` (inference) returns x."""
    return x if rngs is None else nnx.Dropout(rate)(x, deterministic=False, rngs=rngs)


def max_pool2(x: jax.Array) -> jax.Array:
    """2x2 max pool, stride 2, an odd last row or column left out: (B, H, W, F) -> (B, H/2, W/2, F).

    Maxima of the four corners: measured six times faster than a window reduction forward and backward on a CPU, whose
    gradient is a scatter. (A reduction by `max` over reshaped axes has a gradient that compares values computed twice,
    and was seen to lose some of it under fusion; pairwise maxima lose nothing.)
    """
    b, h, w, f = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, f)  # (B, H/2, 2, W/2, 2, F)
    top, bottom = (jnp.maximum(x[:, :, i, :, 0], x[:, :, i, :, 1]) for i in (0, 1))  # (B, H/2, W/2, F)
    return jnp.maximum(top, bottom)
