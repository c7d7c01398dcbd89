"""Keras 2 weights in HDF5: VGGFace2's ResNet-50, and the whole model that the paper's notebooks save.

Both are a root group (or `model_weights`) with the attribute `layer_names`, and a group for each layer whose attribute
`weight_names` lists its arrays. VGGFace2's layers have names of their own. The whole model's are numbered by whatever
was built before them, so numbers are never looked at: arrays are matched by sub-model, order and shape.

The order within a sub-model (keras/saving/legacy/hdf5_format.py, `_legacy_weights`; keras/engine/training.py): all that
is trained, layer by layer, then all that is not, so BatchNorm's moving statistics come last. Of a sub-model that was
frozen as a whole nothing is trained, and each layer's arrays stay together. In both, arrays of one role (kernel, gamma,
...) come in the order of the layers, which is all that is used here; other orders are refused. Layers of a functional
model are sorted by depth, and within a depth as the graph is walked from its end.

Legend: D in, F out, E experts.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipelines.common.text import some
from expressnet_jax.checkpoint.weight_files import Imported, Raw, WeightsError
from expressnet_jax.config import Config
from expressnet_jax.models import branches

#: What keras_vggface's ResNet-50 is built with; the paper's notebooks leave Keras's default, which is the same.
_EPSILON = 1e-3
_SUBMODELS = {
    "CNNFeatureExtractor_1": "cnnfe1", "CNNFeatureExtractor_2": "cnnfe2", "ResNet50": "resnet",
    "MoE_CNN_Features": "moe_cnn", "MoE_Expression": "moe_expression",
}  # fmt: skip
_ROLES = {
    "kernel": "kernel", "bias": "bias",
    "gamma": "gamma", "beta": "beta", "moving_mean": "mean", "moving_variance": "var",
}  # fmt: skip
_NORM = ("gamma", "beta", "mean", "var")
_VGGFACE2 = re.compile(r"(?:conv1/7x7_s2|conv(\d+)_(\d+)_(1x1_reduce|3x3|1x1_increase|1x1_proj))(/bn)?")
_PARTS = {"1x1_reduce": "reduce", "3x3": "conv3", "1x1_increase": "increase", "1x1_proj": "proj"}
#: Output orders of the published notebooks. The files do not say which one they have.
_PUBLISHED = {
    "AffectNet-7 and FER-2013": ("anger", "disgust", "sadness", "happiness", "fear", "neutral", "surprise"),
    "AffectNet-8": ("anger", "contempt", "disgust", "sadness", "happiness", "fear", "neutral", "surprise"),
    "RAF-DB": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
}


@dataclass(frozen=True, eq=False)
class _Weight:
    name: str  # in the file: layer, then the weight's own name
    array: np.ndarray

    @property
    def role(self) -> str:
        """kernel, bias, gamma, beta, mean or var; or else the last part of its name."""
        leaf = self.name.rpartition("/")[2].partition(":")[0]
        return _ROLES.get(leaf, leaf)

    def __str__(self) -> str:
        return f"{self.name} {self.array.shape}"


def read(raw: Raw, config: Config, sizes: Mapping[str, int], part: str) -> Imported:
    """Finds out which of the two files `raw` is, and names its arrays.

    `sizes` are those of the network, by canonical name; `part` "resnet/" takes the ResNet alone. Raises WeightsError
    where a sub-model cannot be matched.
    """
    if raw.lists.get("@backend", raw.lists.get("model_weights@backend")) == ["theano"]:
        raise WeightsError(f"{raw.path} was written by Keras with Theano, whose kernels are mirrored; convert it first")
    layers = _layers(raw)
    if any(_VGGFACE2.fullmatch(name) for name in layers):
        return _vggface2(raw, layers)
    if any(name in layers for name in _SUBMODELS):
        return _authors(raw, layers, config, sizes, part)
    raise WeightsError(
        f"{raw.path} holds neither VGGFace2's ResNet-50 (layers conv1/7x7_s2, conv2_1_1x1_reduce, ...) nor the "
        f"published model (layers {', '.join(_SUBMODELS)}); its layers are {some(list(layers), 6)}"
    )


def _layers(raw: Raw) -> dict[str, list[_Weight]]:
    """The arrays of every layer that has some, both in the model's order."""
    root = "model_weights" if "model_weights@layer_names" in raw.lists else ""
    if f"{root}@layer_names" not in raw.lists:
        raise WeightsError(f"{raw.path} was not written by Keras: it has no list of layer_names")
    layers = {}
    for layer in raw.lists[f"{root}@layer_names"]:
        group = f"{root}/{layer}".removeprefix("/")
        names = raw.lists.get(f"{group}@weight_names")
        if names is None:
            raise WeightsError(f"{raw.path}: layer {layer} is missing, or has no list of weight_names")
        if missing := [name for name in names if f"{group}/{name}" not in raw.arrays]:
            raise WeightsError(f"{raw.path}: {group}/{missing[0]} is listed and is not there")
        if len(set(names)) != len(names):
            raise WeightsError(f"{raw.path}: layer {layer} lists a weight twice")
        if names:
            layers[layer] = [_Weight(f"{layer}/{name}", raw.arrays[f"{group}/{name}"]) for name in names]
    return layers


def _vggface2(raw: Raw, layers: Mapping[str, list[_Weight]]) -> Imported:
    found: dict[str, _Weight] = {}
    for layer, weights in layers.items():
        found |= _by_vggface2_name(layer, weights)
    ignored = [w.name for w in layers.get("classifier", [])]  # of 8,631 people
    known = {w.name for w in found.values()}.union(ignored)
    unknown = [w.name for weights in layers.values() for w in weights if w.name not in known]
    return _imported(raw, "vggface2", found, "vggface2", ignored=ignored, unknown=unknown)


def _by_vggface2_name(layer: str, weights: Sequence[_Weight]) -> dict[str, _Weight]:
    """Canonical names of the arrays of one layer of VGGFace2's; those that are not its own are left out."""
    match = _VGGFACE2.fullmatch(layer)
    if not match:
        return {}
    stage, block, kind, norm = match.groups()
    name = f"resnet/stage{stage}/block{block}/{_PARTS[kind]}" if stage else "resnet/conv1"
    roles = _NORM if norm else ("kernel",)
    # By their own names; by position where they have none ("param_0", in files of the first Keras 2).
    known = [w.role for w in weights] if any(w.role in roles for w in weights) else roles
    return {
        f"{name}{'_bn' if norm else ''}/{role}": w for role, w in zip(known, weights, strict=False) if role in roles
    }


def _authors(
    raw: Raw, layers: dict[str, list[_Weight]], config: Config, sizes: Mapping[str, int], part: str
) -> Imported:
    wanted = {name: ours for name, ours in _SUBMODELS.items() if f"{ours}/".startswith(part)}
    if missing := [name for name in wanted if name not in layers]:
        raise WeightsError(f"{raw.path} has no layer {missing[0]}; its layers are {some(list(layers), 6)}")
    found: dict[str, _Weight] = {}
    for name, ours in wanted.items():
        if ours.startswith("moe"):
            found |= _mixture(raw, name, ours, layers[name])
        else:
            found |= _branch(raw, ours, layers[name], config, sizes)
    rest = {name: weights for name, weights in layers.items() if name not in wanted}
    if part:
        others = [w.name for weights in rest.values() for w in weights]
        return _imported(raw, "authors", found, "unit", ignored=others)
    plain = {name: weights for name, weights in rest.items() if sorted(w.role for w in weights) == ["bias", "kernel"]}
    if len(plain) < 2:
        raise WeightsError(f"{raw.path} has {len(plain)} dense layers beside its sub-models; fuse and head are two")
    for ours, weights in zip(("fuse/dense", "head"), plain.values(), strict=False):
        found |= {f"{ours}/{w.role}": w for w in weights}
    unknown = [w.name for weights in rest.values() for w in weights if w not in found.values()]
    doubts, notes = _order_of_classes(config)
    return _imported(raw, "authors", found, "unit", unknown=unknown, doubts=doubts, notes=notes)


def _order_of_classes(config: Config) -> tuple[list[str], list[str]]:
    """(doubts, notes) about which output of the head is which class."""
    for data, classes in _PUBLISHED.items():
        if config.data.classes == classes:
            return [], [f"its outputs are taken to be in the order of the notebook for {data}: {', '.join(classes)}"]
    orders = "; ".join(f"{data}: {','.join(classes)}" for data, classes in _PUBLISHED.items())
    doubt = "it does not say which output is which class; set data.classes to the order it was trained with"
    return [f"{doubt} ({orders})"], []


def _imported(raw: Raw, kind: str, found: Mapping[str, _Weight], normalize: str, **more: Any) -> Imported:
    arrays, sources = ({name: getattr(w, field) for name, w in found.items()} for field in ("array", "name"))
    expected = {"color_order": "bgr", "normalize": normalize}
    return Imported(raw.path, kind, arrays, sources, _EPSILON, expected, **more)


def _branch(
    raw: Raw, ours: str, weights: Sequence[_Weight], config: Config, sizes: Mapping[str, int]
) -> dict[str, _Weight]:
    """Canonical names of the arrays of a convolutional sub-model."""
    if ours == "resnet":
        by_name = {name: w for w in weights for name in _by_vggface2_name(_own_layer(w), [w])}
        if len(by_name) == len(weights):  # the backbone kept the names that VGGFace2's file has
            return by_name
    _check_order(raw, ours, weights)
    # A shortcut's kernel may be listed before the one that it is added to, as the code that built the model has it.
    # Sizes tell the two apart, but for stage 2 of the published network: there the other stages decide.
    orders = [_names(ours, config, last) for last in (("increase", "proj"), ("proj", "increase"))]
    kernels = [w.array.size for w in weights if w.role == "kernel"]

    def misfits(names: list[str]) -> int:
        return sum(sizes.get(f"{name}/kernel") != size for name, size in zip(names, kernels, strict=False))

    layers = min(orders, key=misfits)
    convs = [name for name in layers if not name.endswith("/dense")]
    norms = [f"{name}_bn" if ours == "resnet" else name.replace("/conv", "/bn") for name in convs]
    wanted = {
        "kernel": [f"{name}/kernel" for name in layers],
        "bias": [f"{name}/bias" for name in layers if ours != "resnet"],
        **{role: [f"{norm}/{role}" for norm in norms] for role in _NORM},
    }
    if strange := [w.name for w in weights if w.role not in wanted]:
        raise WeightsError(f"{raw.path}: {strange[0]} is neither {', '.join(_ROLES)}")
    found: dict[str, _Weight] = {}
    for role, names in wanted.items():
        found |= _matched(raw, names, [w for w in weights if w.role == role], sizes)
    return found


def _own_layer(w: _Weight) -> str:
    """The layer of VGGFace2's that a weight of a sub-model is of, without the models around it; or ""."""
    layer = w.name.rpartition("/")[0]  # "block/conv2d_3" of "block/conv2d_3/kernel:0"
    within = [m.group() for m in _VGGFACE2.finditer(layer) if m.end() == len(layer)]
    return within[-1] if within and w.role in _ROLES.values() else ""


def _check_order(raw: Raw, ours: str, weights: Sequence[_Weight]) -> None:
    """Raises WeightsError unless moving statistics come last, or each pair of them right after its layer's beta."""
    roles = ["", *(w.role for w in weights)]
    before = {"mean": "beta", "var": "mean"}
    together = all(last == before.get(role, last) for last, role in itertools.pairwise(roles))
    # Where something else follows a moving statistic.
    broken = [w for w, role in zip(weights, roles, strict=False) if role in before and w.role not in before]
    if broken and not together:
        raise WeightsError(
            f"{raw.path}: the arrays of {ours} are listed neither layer by layer nor with the moving statistics last "
            f"(see {broken[0].name}), as of a model of which some layers were frozen; save it with all layers trainable"
        )


def _names(ours: str, config: Config, last: tuple[str, str]) -> list[str]:
    """Canonical names of the layers with a kernel, in the order of Keras's layers; `last` are those that end a block
    with a projection."""
    if ours == "resnet":
        blocks = [(f"resnet/stage{stage}/block{i}", i) for stage, i, _, _ in branches.blocks(config.model.resnet)]
        parts = ("reduce", "conv3", *last)
        return ["resnet/conv1", *(f"{at}/{part}" for at, i in blocks for part in parts if i == 1 or part != "proj")]
    extractor = config.model.cnnfe1 if ours == "cnnfe1" else config.model.cnnfe2
    convs = [f"{ours}/conv{i + 1}" for i in range(len(extractor.kernels))]
    return [*convs, "cnnfe1/dense"] if ours == "cnnfe1" else convs


def _mixture(raw: Raw, layer: str, ours: str, weights: Sequence[_Weight]) -> dict[str, _Weight]:
    """Canonical names of a gate's (D, E) and (E,) and E experts' (D, F) and (F,), experts in their order.

    The gate may be listed first or last: it is the one with as many outputs as there are other kernels.
    """
    kernels, biases = ([w for w in weights if w.array.ndim == n] for n in (2, 1))
    e = len(kernels) - 1
    if e < 1 or len(biases) != len(kernels) or len(weights) != 2 * len(kernels):
        said = f"{layer} is no gate and experts of one dense layer each; it has {some(weights, 6)}"
        raise WeightsError(f"{raw.path}: {said}")
    gates = [i for i in (0, e) if kernels[i].array.shape[1] == e]
    if len(gates) == 2:
        gates = [i for i in gates if re.search("gat|rout", kernels[i].name.removeprefix(layer), re.IGNORECASE)]
    if len(gates) != 1:
        raise WeightsError(
            f"{raw.path}: {layer} has {e} experts, and its gate, of {e} outputs, is neither its first nor its last "
            f"layer, or could be both: {some(kernels, 6)}"
        )
    found: dict[str, _Weight] = {}
    for role, listed in (("kernel", kernels), ("bias", biases)):
        experts = [w for i, w in enumerate(listed) if i != gates[0]]
        found |= {f"{ours}/gate/{role}": listed[gates[0]]}
        found |= {f"{ours}/expert{i}/{role}": w for i, w in enumerate(experts)}
    return found


def _matched(
    raw: Raw, names: Sequence[str], weights: Sequence[_Weight], sizes: Mapping[str, int]
) -> dict[str, _Weight]:
    """Pairs names and arrays by order. Raises WeightsError, saying by their sizes which are missing or too many."""
    if len(names) == len(weights):
        return dict(zip(names, weights, strict=True))
    matcher = difflib.SequenceMatcher(None, [sizes.get(n, 0) for n in names], [w.array.size for w in weights], False)
    problems = []
    for _, a, b, c, d in matcher.get_opcodes():
        if b - a != d - c:
            problems += [f"missing: {name}" for name in names[a:b]] + [f"extra: {w}" for w in weights[c:d]]
    raise WeightsError(
        f"{raw.path} has {len(weights)} arrays where {len(names)} belong to {names[0] if names else 'none'}, ...: "
        f"{some(problems, 6)}"
    )
