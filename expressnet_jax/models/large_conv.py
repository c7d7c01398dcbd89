"""Stride-1 SAME convolutions with kernels from 1 to 75 pixels and more, in three forms that give the same values.

Legend: B image, H W picture height and width, P Q kernel height and width, D in, F out, N M circular lengths,
U V their frequencies from 0 to half, S the two signs of u, Z = S U V all frequencies of a real picture's transform.

68 % of the network's arithmetic lies in three kernels of 75, 50 and 25 pixels. By the convolution theorem they cost a
small fraction of it. `direct` is XLA's own convolution. `fft` and `dft` multiply spectra: the first by fast Fourier
transforms, the second by matrix products with cosines and sines, which need more arithmetic but run at the speed of
matrix units, at any length, and only for the rows that are wanted. Both are plain differentiable JAX: reverse mode
keeps the spectra of the forward pass, and computes no gradient for an input that needs none.

What bfloat16 keeps in float32 here: the transforms and the products of spectra. One frequency sums a whole picture,
so 8 bits of mantissa would leave an error in proportion to the brightest value in every pixel of the result.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from expressnet_jax import target

FORMS = ("direct", "fft", "dft")
#: Bytes of spectra on one device above which the batch is worked through in parts. On a CPU so small that they stay in
#: its caches, which takes a third off the time of the 15-pixel kernel at 224 pixels; elsewhere for the memory alone.
#: (One cuFFT plan over 4 GB crashes: jax#9591.)
_MAX_BYTES = {"cpu": 16 << 20}
_MAX_BYTES_ELSEWHERE = 1 << 30
#: Input channels up to which the product of spectra is a sum of so many terms: ten times faster at 3 on a CPU; at 8 on
#: a TPU v5e it moves a third less than the product of the 50-pixel kernel, at 16 2.7 times as much (compiled, not run).
_SUMMED = {"cpu": 4}
_SUMMED_ELSEWHERE = 8


def conv2d(x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
    """SAME convolution (cross-correlation, as in every network library) with stride 1.

    Args: x (B, H, W, D); kernel (P, Q, D, F), floating; form: one of FORMS.
    Returns (B, H, W, F) in the dtype of x. For an even kernel the extra padding is at the bottom and right,
    as in TensorFlow.
    """
    p, q, d, f = kernel.shape
    if (p, q) == (1, 1) and target.platform() == "cpu":
        # A matrix product of two flat operands, whose gradients are several times faster there than a convolution's.
        y = x.reshape(-1, d) @ kernel.astype(x.dtype).reshape(d, f)  # (B*H*W, D) @ (D, F)
        return y.reshape(*x.shape[:-1], f)
    if form == "direct" or (p, q) == (1, 1):
        return direct_conv2d(x, kernel)
    mesh = jax.sharding.get_abstract_mesh()
    if (devices := _devices()) == 1 or x.shape[0] % devices:
        return _transformed(x, kernel, form)

    # Each device on its own pictures; what they then send is the sum of the kernel's gradient. Left to the compiler it
    # is that of the spectrum's, and for TPUs all devices' are gathered first: 6 GiB for the paper's network on 256.
    def local(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _transformed(x, lax.pcast(kernel, mesh.axis_names, to="varying"), form)

    batch = PartitionSpec(mesh.axis_names)
    return jax.shard_map(local, in_specs=(batch, PartitionSpec()), out_specs=batch)(x, kernel)


def _transformed(x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
    spectrum = kernel_spectrum(kernel.astype(jnp.promote_types(kernel.dtype, x.dtype)), x.shape[1:3], form)
    return multiply_spectra(x, spectrum, kernel.shape[:2], form)


def _devices() -> int:
    """Devices that share the pictures of the program that is traced; 1 where each has its own (in `shard_map`)."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh.manual_axes else mesh.size


def direct_conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Any = "SAME") -> jax.Array:
    """`conv2d` by XLA's own convolution, which takes any stride and padding."""
    return lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def kernel_spectrum(kernel: jax.Array, picture: tuple[int, ...], form: str) -> jax.Array:
    """Spectrum (Z, D, F), complex, of a kernel (P, Q, D, F) for pictures of (H, W): computed once for inference.

    It is the conjugate transform of the kernel about its anchor, so that multiplying by it correlates.
    """
    kernel = kernel.astype(_wide(kernel.dtype))
    p, q, d, f = kernel.shape
    down, across = (_axis(pixels, taps, form) for pixels, taps in zip(picture, (p, q), strict=True))
    if form == "fft":
        taps = jnp.pad(kernel, ((0, down.length - p), (0, across.length - q), (0, 0), (0, 0)))
        taps = jnp.roll(taps, (-down.anchor, -across.anchor), axis=(0, 1)).transpose(2, 3, 0, 1)  # (D, F, N, M)
        return jnp.fft.rfft2(taps).conj().transpose(2, 3, 0, 1).reshape(-1, d, f)
    rows = _waves(down.length, -down.anchor, p, kernel.dtype)  # (2U, P)
    columns = _waves(across.length, -across.anchor, q, kernel.dtype)  # (2V, Q)
    half = _exact(columns, kernel.reshape(p, q, -1))  # (2V, Q) @ (P, Q, D F)
    both = _exact(rows, half.reshape(p, -1))  # (2U, P) @ (P, 2V D F)
    return _to_complex(both.reshape(2, down.length // 2 + 1, 2, -1, d, f)).conj()


def multiply_spectra(x: jax.Array, spectrum: jax.Array, taps: tuple[int, ...], form: str) -> jax.Array:
    """`conv2d` of x (B, H, W, D) with a kernel of `taps` (P, Q) pixels, given as its `kernel_spectrum` (Z, D, F)."""
    down, across = (_axis(pixels, size, form) for pixels, size in zip(x.shape[1:3], taps, strict=True))
    apply = functools.partial(_fft if form == "fft" else _dft, spectrum=spectrum, down=down, across=across)
    images, parts, devices = x.shape[0], 1, _devices()
    tiles = -(-images // devices) * down.tiles * across.tiles
    size = tiles * spectrum.shape[0] * sum(spectrum.shape[1:]) * spectrum.dtype.itemsize
    limit = _MAX_BYTES.get(target.platform(), _MAX_BYTES_ELSEWHERE)
    while size > parts * limit and images % (2 * parts * devices) == 0:
        parts *= 2
    if parts == 1:
        return apply(x)
    # The part is the inner axis, so that every part takes pictures from all devices and none moves.
    split = jnp.moveaxis(x.reshape(images // parts, parts, *x.shape[1:]), 1, 0)
    # A loop clears all of its output first; a few parts are cheaper without one.
    y = lax.map(apply, split) if parts > 4 else jnp.stack([apply(part) for part in split])
    return jnp.moveaxis(y, 0, 1).reshape(images, *x.shape[1:3], -1)


def flops(picture: tuple[int, ...], kernel: tuple[int, ...], form: str) -> int:
    """2 x multiply-adds for one picture (H, W) and a kernel (P, Q, D, F): of `direct`, padding included, or of `dft`
    without the kernel's own transform."""
    p, q, d, f = kernel
    if form == "direct":
        return 2 * math.prod(picture) * math.prod(kernel)
    down, across = (_axis(pixels, taps, form) for pixels, taps in zip(picture, (p, q), strict=True))
    (n, m), tiles = (2 * (axis.length // 2 + 1) for axis in (down, across)), down.tiles * across.tiles
    there = 2 * m * across.read * down.read + 2 * n * m * down.read
    back = 2 * n * m * down.wanted + 2 * m * across.wanted * down.wanted
    return tiles * (d * there + f * back + 4 * n * m * d * f)  # 8 real operations for each of n m / 2 coefficients


class _Axis(NamedTuple):
    """How one axis of a picture is transformed: as `tiles` that each read some pixels and give the `wanted` ones."""

    tiles: int
    length: int  # of the circular transform; what wraps around falls on pixels that nobody wants
    anchor: int  # the tap above a tile's first pixel
    read: int
    wanted: int
    pixels: int  # of the whole picture
    taps: int


def _axis(pixels: int, taps: int, form: str) -> _Axis:
    """Whole pictures, but on a CPU for the dft of one that is three times as long as the kernel or more: tiles about
    that long need less arithmetic (and more memory, which is what matrix units wait for).

    Only the longer side of the padding counts in a length; an fft's has no factors above 7.
    """
    count = max(1, pixels // (3 * taps)) if form == "dft" and target.platform() == "cpu" else 1
    if count > 1:
        wanted = -(-pixels // count)
        return _Axis(count, wanted + taps - 1, 0, wanted + taps - 1, wanted, pixels, taps)
    length = max(pixels + taps // 2, taps)
    return _Axis(1, _smooth(length) if form == "fft" else length, (taps - 1) // 2, pixels, pixels, pixels, taps)


def _fft(x: jax.Array, spectrum: jax.Array, down: _Axis, across: _Axis) -> jax.Array:
    b, size, f = x.shape[0], (down.length, across.length), spectrum.shape[-1]
    image = jnp.fft.rfft2(x.astype(_wide(x.dtype)).transpose(0, 3, 1, 2), size)  # (B, D, N, V)
    image = image.transpose(2, 3, 0, 1).reshape(-1, b, x.shape[-1])  # (Z, B, D)
    product = _exact(image, spectrum).reshape(size[0], -1, b, f).transpose(2, 3, 0, 1)  # (B, F, N, V)
    y = jnp.fft.irfft2(product, size)[:, :, : down.wanted, : across.wanted]
    return y.transpose(0, 2, 3, 1).astype(x.dtype)


def _dft(x: jax.Array, spectrum: jax.Array, down: _Axis, across: _Axis) -> jax.Array:
    (b, _, _, d), wide = x.shape, _wide(x.dtype)
    u, v = down.length // 2 + 1, across.length // 2 + 1
    product = functools.partial(jnp.einsum, precision=_precision(x.dtype))
    # Below, B are tiles of images. No axis is merged in front of B, or a batch spread over devices would be gathered.
    tiles = _cut(_cut(x.astype(wide), down, 1), across, 3).transpose(0, 1, 3, 2, 4, 5)
    tiles = tiles.reshape(-1, down.read, across.read, d)  # (B, H, W, D)
    columns, rows = _waves(across.length, 0, across.read, wide), _waves(down.length, 0, down.read, wide)
    half = product("vw,whbd->vhbd", columns, tiles.transpose(2, 1, 0, 3))  # (2V, H, B, D)
    image = product("uh,vhbd->uvbd", rows, half).reshape(2, u, 2, v, -1, d)
    if d <= _SUMMED.get(target.platform(), _SUMMED_ELSEWHERE):  # hardly a matrix product, and fused with what follows
        result = _sum_of_products(image, spectrum)
    else:
        result = _from_complex(product("zbd,zdf->zbf", _to_complex(image), spectrum), u, v)  # (2, U, 2, V, B, F)
    rows = _waves(down.length, 0, down.wanted, wide) * _weights(down.length, wide)
    columns = _waves(across.length, 0, across.wanted, wide) * _weights(across.length, wide)
    half = product("uh,uvbf->hvbf", rows, result.reshape(2 * u, 2 * v, *result.shape[4:]))
    y = product("vw,hvbf->hwbf", columns, half).transpose(2, 0, 1, 3)  # (B, H, W, F)
    y = y.reshape(b, down.tiles, across.tiles, *y.shape[1:]).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(b, down.tiles * down.wanted, across.tiles * across.wanted, -1)
    return y[:, : down.pixels, : across.pixels].astype(x.dtype)


def _cut(x: jax.Array, axis: _Axis, at: int) -> jax.Array:
    """Splits an axis of x into overlapping tiles: (..., pixels, ...) to (..., tiles, read, ...)."""
    if axis.tiles == 1:
        return jnp.expand_dims(x, at)
    top = (axis.taps - 1) // 2
    widths = [(0, 0)] * x.ndim
    widths[at] = (top, (axis.tiles + 1) * axis.wanted - axis.pixels - top)
    blocks = jnp.pad(x, widths).reshape(*x.shape[:at], axis.tiles + 1, axis.wanted, *x.shape[at + 1 :])
    here = lax.slice_in_dim(blocks, 0, axis.tiles, axis=at)
    below = lax.slice_in_dim(lax.slice_in_dim(blocks, 1, None, axis=at), 0, axis.taps - 1, axis=at + 1)
    return jnp.concatenate([here, below], at + 1)


def _to_complex(waves: jax.Array) -> jax.Array:
    """Products with cosines and sines (2, U, 2, V, ...) to the Fourier coefficients of +u and -u, (Z, ...)."""
    cosine, sine = lax.split(waves, (1, 1), 0)
    signs = _signs(*lax.split(cosine, (1, 1), 2), *lax.split(sine, (1, 1), 2))
    return jnp.concatenate(signs).reshape(-1, *waves.shape[4:])


def _from_complex(z: jax.Array, u: int, v: int) -> jax.Array:
    """The inverse of `_to_complex`: (Z, ...) to (2, U, 2, V, ...)."""
    plus, minus = lax.split(z.reshape(2, u, 1, v, *z.shape[1:]), (1, 1), 0)
    return jnp.concatenate([jnp.concatenate(pair, 2) for pair in _pairs(plus, minus)]) / 2


def _signs(cc: jax.Array, cs: jax.Array, sc: jax.Array, ss: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The coefficients of +u and -u from the products with cosines (c) and sines (s), along u first."""
    return lax.complex(cc - ss, -(cs + sc)), lax.complex(cc + ss, sc - cs)


def _pairs(plus: jax.Array, minus: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Twice the inverse of `_signs`: ((cc, cs), (sc, ss)) from the coefficients of +u and -u."""
    cosine = plus.real + minus.real, -(plus.imag + minus.imag)
    return cosine, (minus.imag - plus.imag, minus.real - plus.real)


def _sum_of_products(waves: jax.Array, spectrum: jax.Array) -> jax.Array:
    """A picture's waves (2, U, 2, V, B, D) times a spectrum (Z, D, F), for a few D: (2, U, 2, V, B, F).

    The same as a matrix product between `_to_complex` and `_from_complex`, but the two signs of u apart: the compiler
    then joins all of it, and for a TPU v5e moves a sixth less (CNNFE2's first layer: 151 to 126 MB a picture).
    """
    u, v = waves.shape[1], waves.shape[3]
    signs = _signs(waves[0, :, 0], waves[0, :, 1], waves[1, :, 0], waves[1, :, 1])  # (U, V, B, D) each
    kernels = spectrum.reshape(2, u, v, 1, *spectrum.shape[1:])  # (2, U, V, 1, D, F)
    plus, minus = (
        functools.reduce(jnp.add, (sign[..., i, None] * kernel[..., i, :] for i in range(sign.shape[-1])))
        for sign, kernel in zip(signs, kernels, strict=True)
    )
    return jnp.stack([jnp.stack(pair, 1) for pair in _pairs(plus, minus)]) / 2


def _exact(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _precision(dtype: Any) -> lax.Precision:
    """Of the products in `_dft`, which CPUs ignore: for bfloat16 pictures three bfloat16 passes on a TPU, or TF32 on a
    GPU (both keep more than bfloat16's 8 bits); for float32 pictures float32 on both."""
    return lax.Precision.HIGH if dtype == jnp.bfloat16 else lax.Precision.HIGHEST


def _waves(length: int, first: int, count: int, dtype: Any) -> jax.Array:
    """cos and sin of 2 pi u x / length for u = 0 ... length / 2 and x = first ... first + count - 1: (2U, count)."""
    x = first + np.arange(count)
    turns = np.arange(length // 2 + 1)[:, None] * x % length / length  # (U, count)
    return jnp.asarray(np.concatenate([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)]), dtype)


def _weights(length: int, dtype: Any) -> jax.Array:
    """How often each wave counts in a sum over all frequencies, divided by their number: (2U, 1)."""
    weights = np.full(length // 2 + 1, 2 / length)
    weights[0] = 1 / length
    if length % 2 == 0:
        weights[-1] = 1 / length
    return jnp.asarray(np.concatenate([weights, weights])[:, None], dtype)


def _smooth(number: int) -> int:
    rest = number
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    return number if rest == 1 else _smooth(number + 1)


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)
