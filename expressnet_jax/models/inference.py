"""Work that is done once before many pictures are answered: each BatchNorm is folded into the kernel before it, and the
spectra of the large kernels are computed."""

from typing import Any

import jax
from flax import nnx
from jax import lax

from expressnet_jax.config import Config, Model
from expressnet_jax.models import choice, large_conv, layers
from expressnet_jax.models.expressnet import ExpressNet


def prepare(model: ExpressNet, config: Config) -> ExpressNet:
    """Changes `model` for inference alone, and returns it; its answers stay the same up to rounding.

    Call it under jit, or on a model that is needed for nothing else: parameters are replaced. The BatchNorm layers of
    the extractors' blocks stay, since they follow a relu, and those of dense layers, which are small.
    """
    for _, part in list(nnx.iter_modules(model)):
        for name in [name for name in vars(part) if f"{name}_bn" in vars(part)]:
            if isinstance(getattr(part, name), layers.Conv):
                _fold(part, name)
    _transform_kernels(model, config.model)
    return model


def prepared(model: Any, config: Config) -> tuple[Any, Any]:
    """(graph, arrays) of what `prepare` makes of `model`, which stays as it is; nnx.merge makes a network of them."""
    graph, arrays = nnx.split(model)
    return jax.jit(lambda arrays: nnx.split(prepare(nnx.merge(graph, arrays), config)))(arrays)


class _Nothing(nnx.Module):
    """Takes the place of a BatchNorm that was folded into the kernel before it."""

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x


def _fold(parent: nnx.Module, name: str) -> None:
    conv, bn = getattr(parent, name), getattr(parent, f"{name}_bn")
    factor = bn.scale[...] * lax.rsqrt(bn.var[...] + bn.epsilon)  # (F,)
    conv.kernel[...] = conv.kernel[...] * factor  # (P, Q, D, F)
    conv.bias = nnx.Param(bn.bias[...] - bn.mean[...] * factor)
    setattr(parent, f"{name}_bn", _Nothing())


def _transform_kernels(model: ExpressNet, settings: Model) -> None:
    for layer, side, kernel in choice.layers(settings):
        branch, name = layer.split("/")
        form = choice.form(settings, layer, side, kernel, train=False)
        if form != "direct":
            conv: layers.Conv = getattr(getattr(model, branch), name)
            conv.form = form
            conv.spectrum = nnx.Param(large_conv.kernel_spectrum(conv.kernel[...], (side, side), form))
