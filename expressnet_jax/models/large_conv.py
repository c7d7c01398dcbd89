"""Stride-1 SAME convolutions with kernels from 1 to 75 pixels and more.

Legend: B image, H W picture height and width, P Q kernel height and width, D in, F out, L length of a transform.

71 % of the network's arithmetic lies in three kernels of 75, 50 and 25 pixels. By the convolution theorem they cost
a small fraction of that; both forms below give the same values to float32 rounding, forward and gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def conv2d(x: jax.Array, kernel: jax.Array, form: str = "auto") -> jax.Array:
    """SAME convolution (cross-correlation, as in every network library) with stride 1.

    Args: x (B, H, W, D); kernel (P, Q, D, F), both of one floating dtype; form: "direct", "fft", or "auto" for the
    faster one by the kernel's shape.
    Returns (B, H, W, F) in the dtype of x. For an even kernel the extra padding is at the bottom and right,
    as in TensorFlow.
    """
    p, q = kernel.shape[:2]
    if (p, q) == (1, 1):
        # A matrix product of two flat operands: on CPUs its gradients are several times faster than a convolution's.
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)  # (B*H*W, D) @ (D, F)
    use_fft = form == "fft" or (form == "auto" and prefers_fft(kernel.shape))
    return fft_conv2d(x, kernel) if use_fft else direct_conv2d(x, kernel)


def prefers_fft(kernel_shape: tuple[int, ...]) -> bool:
    """Whether the transform wins for a kernel (P, Q, D, F): many taps for each input channel.

    The direct sum costs P Q D F a pixel, the transform about D F and something in proportion to D + F. Seen on two
    CPU cores: it wins for 15x15 on 3 and 11x11 on 8 channels, loses for 5x5 on 3 and for 5x5 on 16.
    """
    p, q, d, _ = kernel_shape
    return min(p, q) >= 11 and p * q >= 12 * d


def direct_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv2d` by XLA's own convolution."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def fft_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv2d` by the convolution theorem: real Fourier transforms of picture and kernel, multiplied per frequency.

    The transforms run in float32 (float64 for float64 input): bfloat16 has no Fourier transform, and its 8 bits would
    not survive sums over a whole picture.
    """
    height, width, (p, q) = x.shape[1], x.shape[2], kernel.shape[:2]
    size = (_length(height, p), _length(width, q))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    image = jnp.fft.rfft2(x.astype(wide), size, axes=(1, 2))  # (B, L, L/2+1, D)
    # Turned about its anchor, so that the product is a correlation and row 0 of the result is the first wanted one.
    taps = jnp.pad(kernel.astype(wide), ((0, size[0] - p), (0, size[1] - q), (0, 0), (0, 0)))
    taps = jnp.roll(taps, (-((p - 1) // 2), -((q - 1) // 2)), axis=(0, 1))
    filters = jnp.fft.rfft2(taps, axes=(0, 1)).conj()  # (L, L/2+1, D, F)
    product = jnp.einsum("bhwd,hwdf->bhwf", image, filters)
    return jnp.fft.irfft2(product, size, axes=(1, 2))[:, :height, :width].astype(x.dtype)


def _length(pixels: int, taps: int) -> int:
    """Smallest length without factors above 7 whose wrap-around touches no wanted pixel.

    Only the longer side of the padding counts: what wraps around falls on the rows that are cut off.
    """
    length = max(pixels + taps // 2, taps)
    while _largest_factor(length) > 7:
        length += 1
    return length


def _largest_factor(number: int) -> int:
    for prime in (2, 3, 5, 7):
        while number % prime == 0:
            number //= prime
    return number if number > 7 else 7
