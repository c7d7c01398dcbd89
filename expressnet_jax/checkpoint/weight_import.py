"""Weights from a file into a network: finds out what the file is, says what fits, and changes all of it or nothing.

`load` reads safetensors (our names, or a torchvision-style ResNet-50) and HDF5 (VGGFace2's ResNet-50, or the published
notebooks' whole model); `apply` puts them in a network.

Legend: D in, F out, P Q kernel height and width.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from data_pipelines.common.text import counted, some
from expressnet_jax.checkpoint import keras_import, weight_files
from expressnet_jax.checkpoint.weight_files import Imported, Raw, WeightsError
from expressnet_jax.config import Config, Preprocess
from expressnet_jax.models import canonical, expressnet

BACKBONE = "resnet/"
_SLACK = 64 << 20  # bytes of weights that a file may hold beside the network's own: another head
#: Settings that our own files carry and that change a network's answers, but no shape.
_SILENT = ("model.cnnfe1.stride", "model.cnnfe1.unpooled", "model.cnnfe2.stride", "model.cnnfe2.unpooled",
           "model.resnet.form", "model.resnet.stem_stride", "model.resnet.stem_pool", "moe.top_k", "moe.router",
           "moe.renormalize")  # fmt: skip
_BEFORE: dict[str, Any] = {"stride": 1, "unpooled": []}  # what our older files, which do not carry it, were made with
_PAPER = "the paper feeds BGR divided by 255 to weights trained on 0-255 minus VGGFace2's means"

_TORCH_EPSILON = 1e-5  # torch.nn.BatchNorm2d's
_TORCH_FIRST = "layer1.0.conv1.weight"
_TORCH_NAME = re.compile(r"(?:layer(\d+)\.(\d+)\.)?(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)")
_TORCH_LAYERS = {"1": "reduce", "2": "conv3", "3": "increase"}
_TORCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}


@dataclass(frozen=True)
class Report:
    """What became of a file's weights, by canonical name or, for `ignored`, by the name in the file."""

    path: str
    kind: str
    loaded: list[str]
    left: list[str]  # of the network: as they were
    ignored: list[str]
    values: int  # numbers loaded
    notes: list[str]

    def describe(self) -> str:
        """For a person: a line on what was loaded, and one for each note."""
        loaded = f"{counted(len(self.loaded), 'array')} loaded, {counted(self.values, 'value')}"
        for what, names in (("left at initialisation", self.left), ("ignored", self.ignored)):
            loaded += f"; {len(names)} {what}: {_parts(names)}" if names else ""
        return "\n".join([f"{self.path} ({self.kind}): {loaded}", *self.notes])


def load(path: Path, config: Config, *, backbone: bool = False) -> Imported:
    """Reads a weight file for the network of `config`, or with `backbone` for its ResNet alone.

    The kind of file is told by its content. BatchNorm's epsilon is taken into gamma where the weights were trained with
    another one. Raises WeightsError.
    """
    sizes = canonical.sizes(nnx.eval_shape(lambda: expressnet.create(config)))
    part = BACKBONE if backbone else ""
    raw = weight_files.read(path, 8 * sum(sizes.values()) + _SLACK)  # a file may be in float64
    if raw.format == "hdf5":
        imported = keras_import.read(raw, config, sizes, part)
    elif any(name.endswith(_TORCH_FIRST) for name in raw.arrays):
        imported = _torchvision(raw, config)
    else:
        imported = _ours(raw, config, part)
    if negative := [name for name, value in imported.weights.items() if name.endswith("/var") and (value < 0).any()]:
        raise WeightsError(f"{path}: the variance {imported.sources[negative[0]]} is below 0")
    return _with_epsilon(dataclasses.replace(imported, part=part), config.model.batchnorm_epsilon)


def apply(model: nnx.Module, imported: Imported, *, strict: bool = True) -> Report:
    """Puts the weights in `model`. Raises WeightsError, and changes nothing, where they do not fit.

    Strict: all of the part that was asked for must be there, in its shapes, and nothing else. Otherwise what fits is
    taken, and nothing is refused but a file of which nothing fits.
    """
    named = canonical.to_canonical(model)
    wanted = {name: value.shape for name, value in named.items() if name.startswith(imported.part)}
    fitting = {name: value for name, value in imported.weights.items() if wanted.get(name) == value.shape}
    problems = [*imported.doubts, *_problems(imported, wanted)]
    if problems and (strict or not fitting):
        way_out = "; init.strict=false takes what fits" if fitting else ""
        raise WeightsError(f"{imported.path} does not fit: {some(problems, 5, '; ')}{way_out}")
    canonical.from_canonical(model, named | fitting)
    unused = [imported.sources[name] for name in imported.weights if name not in fitting]
    return Report(
        path=str(imported.path), kind=imported.kind, loaded=sorted(fitting), left=sorted(set(named) - set(fitting)),
        ignored=[*imported.ignored, *imported.unknown, *unused],
        values=sum(value.size for value in fitting.values()), notes=[*imported.notes, *imported.doubts],
    )  # fmt: skip


def mismatch(imported: Imported, preprocess: Preprocess) -> str:
    """A line on how `preprocess` differs from what the weights were trained on, or ""."""
    differing = {
        key: value
        for key, value in imported.preprocessing.items()
        if value != getattr(preprocess, key) and (key not in ("mean", "std") or preprocess.normalize == "standard")
    }
    if not differing:
        return ""
    settings = " ".join(f"preprocess.{key}={value}" for key, value in differing.items())
    is_ = ", ".join(str(getattr(preprocess, key)) for key in differing)
    line = f"{imported.path} ({imported.kind}) expects {settings}, and this run has {is_}"
    return f"{line} ({_PAPER})" if imported.kind == "vggface2" else line


def _ours(raw: Raw, config: Config, part: str) -> Imported:
    """A file with canonical names; those that `expressnet export` writes say what they were made with."""
    known = ("cnnfe1/", "cnnfe2/", "resnet/", "fuse/", "moe_cnn/", "moe_expression/", "head/")
    if not any(name.startswith(known) for name in raw.arrays):
        names = some(list(raw.arrays), 3) or "no weights at all"
        raise WeightsError(
            f"{raw.path} has neither this project's names (resnet/conv1/kernel, ...) nor those of a ResNet-50 of "
            f"torchvision (conv1.weight, layer1.0.conv1.weight, ...), but {names}"
        )
    about = raw.about or {}
    weights = {name: value for name, value in raw.arrays.items() if name.startswith(part)}
    ignored = [name for name in raw.arrays if name not in weights]
    weights, doubts = _in_order(weights, about.get("classes"), config.data.classes)
    epsilon = _section(about, "model").get("batchnorm_epsilon")
    return Imported(
        raw.path, "expressnet safetensors", weights, {name: name for name in weights},
        epsilon if isinstance(epsilon, float) and 0 < epsilon < 1 else 0.0,
        _preprocess(_section(about, "preprocess")), ignored, raw.others, doubts,
        _silent_differences(about, config, part),
    )  # fmt: skip


def _torchvision(raw: Raw, config: Config) -> Imported:
    """A ResNet-50 of torchvision's kind, as a state dict, perhaps with something before each name ("module.").

    The arrays are those of our ResNet, in another layout: kernels (F, D, P, Q) instead of (P, Q, D, F), and other
    names. The network around them is not the same. Torchvision's (v1.5) has the stride of stages 3 to 5 in the 3x3
    convolution, ours (the original, as VGGFace2's) in the 1x1 before it; it pads strided convolutions and the max pool
    on both sides, ours at the end or not at all. A file cannot tell which one it was trained for, and shapes fit both.
    So the original form takes these weights only where that is asked for: they are a start then, not the network that
    they were.
    """
    prefix = next(name for name in raw.arrays if name.endswith(_TORCH_FIRST)).removesuffix(_TORCH_FIRST)
    weights, sources = {}, {}
    unknown = [name for name in raw.others if not name.endswith(".num_batches_tracked")]
    ignored = [name for name in raw.others if name.endswith(".num_batches_tracked")]
    for name, array in raw.arrays.items():
        ours = _torchvision_name(name.removeprefix(prefix)) if name.startswith(prefix) else ""
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
        raw.path, "torchvision", weights, sources, _TORCH_EPSILON, {"color_order": "rgb", "normalize": "imagenet"},
        ignored, unknown, doubts, notes,
    )  # fmt: skip


def _torchvision_name(name: str) -> str:
    """Our name for one of torchvision's, or ""."""
    match = _TORCH_NAME.fullmatch(name)
    if not match:
        return ""
    stage, block, kind, number, shortcut, leaf = match.groups()
    if not stage and number != "1":
        return ""
    at = f"stage{int(stage) + 1}/block{int(block) + 1}/{_TORCH_LAYERS.get(number, 'proj')}" if stage else "conv1"
    layer = f"resnet/{at}"
    if kind == "bn" or shortcut == "1":
        return f"{layer}_bn/{_TORCH_NORM[leaf]}" if leaf in _TORCH_NORM else ""
    return f"{layer}/kernel" if leaf == "weight" else ""


def _section(tree: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _preprocess(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocess` among `found` that have its types, and texts that a message can hold."""
    types = {field.name: type(field.default) for field in dataclasses.fields(Preprocess)}
    kept = {key: value for key, value in found.items() if type(value) is types.get(key)}
    return {key: v for key, v in kept.items() if not isinstance(v, str) or (v.isidentifier() and len(v) < 20)}


def _in_order(
    weights: dict[str, np.ndarray], theirs: Any, ours: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The head with its outputs in the order of `ours`, and doubts; without the head where the classes are others."""
    head = [name for name in weights if name.startswith("head/")]
    if not head or not isinstance(theirs, list) or theirs == list(ours):
        return weights, []
    rest = {name: value for name, value in weights.items() if name not in head}
    names = [name for name in theirs if isinstance(name, str)]
    fits = len(names) == len(theirs) and all(weights[name].shape[-1:] == (len(ours),) for name in head)
    if not fits or sorted(names) != sorted(ours):
        return rest, [f"its classes are {str(theirs)[:200]}, and this network's {list(ours)}"]
    order = [theirs.index(name) for name in ours]
    return rest | {name: weights[name][..., order] for name in head}, []


def _silent_differences(about: Mapping[str, Any], config: Config, part: str) -> list[str]:
    """Settings that the weights were trained with and that are others here, of those that no shape shows."""
    ours, notes = dataclasses.asdict(config), []
    for key in _SILENT:
        *sections, last = key.split(".")
        theirs, after = _section(about, *sections), _section(ours, *sections)[last]
        after = list(after) if isinstance(after, tuple) else after  # as JSON has it
        before = theirs.get(last, _BEFORE.get(last) if theirs else None)
        if before is not None and before != after and (not part or "resnet" in key):
            notes.append(f"these weights were trained with {key}={before!r:.50}, and here it is {after}")
    return notes


def _with_epsilon(imported: Imported, ours: float) -> Imported:
    """gamma sqrt((var + ours) / (var + theirs)) for gamma: the same answers with our epsilon, up to rounding.

    In training, where the batch's variance is used, the same wherever it is the stored one.
    """
    theirs = imported.epsilon
    if theirs in (0, ours):
        return imported
    weights = dict(imported.weights)
    for name, gamma in imported.weights.items():
        var = imported.weights.get(name.replace("/gamma", "/var"))
        if name.endswith("/gamma") and var is not None and var.shape == gamma.shape:
            wide = var.astype(np.float64)
            weights[name] = (gamma * np.sqrt((wide + ours) / (wide + theirs))).astype(np.float32)
    note = f"BatchNorm's epsilon of {theirs:g}, here {ours:g}, is made up for in gamma"
    return dataclasses.replace(imported, weights=weights, notes=[*imported.notes, note])


def _problems(imported: Imported, wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Each name that is of another shape, extra or missing, as a phrase."""
    problems = []
    for name, value in imported.weights.items():
        source = "" if imported.sources[name] == name else f" (in the file: {imported.sources[name]})"
        if name not in wanted:
            problems.append(f"extra: {name}{source}")
        elif value.shape != wanted[name]:
            turned = ", transposed" if sorted(value.shape) == sorted(wanted[name]) else ""
            problems.append(f"shape of {name}{source}: {value.shape}{turned}, the network has {wanted[name]}")
    problems += [f"extra: {name}" for name in imported.unknown]
    missing = [name for name in wanted if name not in imported.weights]
    if missing and not imported.part and all(name.startswith(BACKBONE) for name in imported.weights):
        return [*problems, f"it holds a ResNet alone, which goes in init.backbone; names missing: {len(missing)}"]
    return problems + [f"missing: {name} {wanted[name]}" for name in missing]


def _parts(names: Sequence[str]) -> str:
    """ "cnnfe1 38, head 2" for canonical names; the names themselves where they are few."""
    if len(names) <= 3:
        return ", ".join(names)
    return ", ".join(f"{part} {count}" for part, count in Counter(name.split("/")[0] for name in names).items())
