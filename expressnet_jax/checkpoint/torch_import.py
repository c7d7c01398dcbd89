"""A ResNet-50 of torchvision's kind, as a state dict in safetensors: weights of ImageNet to start from.

The arrays are those of our ResNet, in another layout: kernels (F, D, P, Q) instead of (P, Q, D, F), and other names.
The network around them is not the same. Torchvision's (v1.5) has the stride of stages 3 to 5 in the 3x3 convolution,
ours (the original, as VGGFace2's) in the 1x1 before it; it pads strided convolutions and the max pool on both sides,
ours at the end or not at all. A file cannot tell which one it was trained for, and shapes fit both. So the original
form takes these weights only where that is asked for: they are a start then, not the network that they were.

Legend: D in, F out, P Q kernel height and width.
"""

from __future__ import annotations

import re

import numpy as np

from expressnet_jax.checkpoint.weight_files import Imported, Raw
from expressnet_jax.config import Config

_EPSILON = 1e-5  # torch.nn.BatchNorm2d's
_FIRST = "layer1.0.conv1.weight"
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)")
_STEM = re.compile(r"(conv|bn)1\.(\w+)")
_LAYERS = {"1": "reduce", "2": "conv3", "3": "increase"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}


def recognise(raw: Raw) -> bool:
    """Whether this is a ResNet's state dict, perhaps with something before each name ("module.")."""
    return any(name.endswith(_FIRST) for name in raw.arrays)


def read(raw: Raw, config: Config) -> Imported:
    """Names the arrays of a state dict and turns its kernels."""
    prefix = next(name for name in raw.arrays if name.endswith(_FIRST)).removesuffix(_FIRST)
    weights, sources = {}, {}
    unknown = [name for name in raw.others if not name.endswith(".num_batches_tracked")]
    ignored = [name for name in raw.others if name.endswith(".num_batches_tracked")]
    for name, array in raw.arrays.items():
        ours = _canonical(name.removeprefix(prefix)) if name.startswith(prefix) else ""
        if ours:
            turned = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array  # (F, D, P, Q) -> (P, Q, D, F)
            weights[ours], sources[ours] = np.ascontiguousarray(turned), name
        else:
            (ignored if name.removeprefix(prefix) in ("fc.weight", "fc.bias") else unknown).append(name)
    doubts, notes = [], []
    if config.model.resnet.form == "torchvision":
        notes.append("if it is one of the original form (stride in the first 1x1), set model.resnet.form=original")
    else:
        doubts.append(
            "torchvision's ResNet has its stride in the 3x3 convolutions and pads both sides, this network in the "
            "first 1x1 and at the end; set model.resnet.form=torchvision"
        )
    return Imported(
        raw.path, "torchvision", weights, sources, _EPSILON, {"color_order": "rgb", "normalize": "imagenet"},
        ignored, unknown, doubts, notes,
    )  # fmt: skip


def _canonical(name: str) -> str:
    """Our name for one of torchvision's, or ""."""
    if match := _STEM.fullmatch(name):
        kind, leaf = match.groups()
        layer, norm = "resnet/conv1", kind == "bn"
    elif match := _BLOCK.fullmatch(name):
        stage, block, kind, number, shortcut, leaf = match.groups()
        layer = f"resnet/stage{int(stage) + 1}/block{int(block) + 1}/{_LAYERS.get(number, 'proj')}"
        norm = kind == "bn" or shortcut == "1"
    else:
        return ""
    if norm:
        return f"{layer}_bn/{_NORM[leaf]}" if leaf in _NORM else ""
    return f"{layer}/kernel" if leaf == "weight" else ""
