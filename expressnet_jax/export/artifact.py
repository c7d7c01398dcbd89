"""An exported model as a folder: what is in it, and a reader that believes nothing of it.

    config.json        the resolved config, class names, preprocessing, facts of the run, a checksum of every file
    model.safetensors  the weights by canonical name
    model.stablehlo    graphs, those that were asked for; each takes `images` uint8 (B, H, W, 3) in RGB
    model.onnx         (and model.float16.onnx or model.int8.onnx)
    saved_model/
    web/               a page that runs a graph in a browser
    README.md          the model card; people may edit it, so it has no checksum

Legend: B image, H W height and width, K experts chosen.
"""

import dataclasses
import functools
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors.numpy
from flax import nnx

from data_pipelines.common.errors import DataError, Failure
from data_pipelines.common.files import read_json
from data_pipelines.common.text import LONG, reason, some
from expressnet_jax.checkpoint import digests, weight_files
from expressnet_jax.config import Config, ConfigError, to_dict
from expressnet_jax.config import files as config_files
from expressnet_jax.models import canonical, expressnet, preprocess

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_NAMES = {"F32": "float32", "BF16": "bfloat16"}
_AGAIN = "copy the whole artifact, or export again"
_MAX_CONFIG_BYTES = 8 << 20
_KEYS: dict[str, type] = {
    "config": dict, "classes": list, "preprocessing": dict, "step": int, "weights": str, "dtype": str, "digest": str,
    "run": dict, "files": dict, "made_with": dict,
}  # fmt: skip


class ArtifactError(Failure):
    """An artifact that is missing, damaged or was changed, or an export that failed; the message is one line."""


@dataclass(frozen=True)
class Artifact:
    """An artifact that was checked as a whole."""

    path: Path
    config: Config
    classes: tuple[str, ...]
    weights: dict[str, np.ndarray]  # by canonical name, float32
    meta: dict[str, Any]  # config.json


def read(path: Path) -> Artifact:
    """Reads an artifact and checks all of it: format, checksums, config, classes, names, shapes, values.

    Raises ArtifactError.
    """
    meta = read_meta(path)
    _check_files(path, meta["files"])
    config = _config(path, meta)
    weights, dtype, about = read_weights(path / WEIGHTS)
    _check_unedited(path, {"dtype": meta["dtype"], **about_weights(config)}, {"dtype": dtype, **about})
    _check_weights(path, config, weights)
    if canonical.digest(weights) != meta["digest"]:
        raise ArtifactError(f"{path / CONFIG} was edited: its digest is not that of {WEIGHTS}; export again")
    return Artifact(path, config, config.data.classes, weights, meta)


def rounded(weights: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """The weights as float32, with the values that they have once stored in `dtype`."""
    return {name: np.asarray(value).astype(DTYPES[dtype]).astype(np.float32) for name, value in weights.items()}


def write_weights(path: Path, weights: Mapping[str, np.ndarray], dtype: str, about: Mapping[str, Any]) -> None:
    """Writes `weights` in `dtype`; `about` is kept as JSON in the file's own metadata."""
    stored = {name: np.ascontiguousarray(np.asarray(value).astype(DTYPES[dtype])) for name, value in weights.items()}
    metadata = {"format": "expressnet_jax", "about": json.dumps(about, sort_keys=True)}
    path.write_bytes(safetensors.numpy.save(stored, metadata))  # `save_file` makes files that only their owner reads


def read_weights(path: Path) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """(weights in float32 by name, the dtype they are stored in, what `write_weights` was told about them).

    Raises ArtifactError, also where a value is not finite.
    """
    try:
        raw = weight_files.read(path, 2 * path.stat().st_size)  # bfloat16 takes twice as much as float32
    except (weight_files.WeightsError, OSError) as error:
        raise ArtifactError(reason(error, LONG)) from error
    if raw.metadata.get("format") != "expressnet_jax" or raw.about is None:
        raise ArtifactError(f"{path} cannot be read: it was not written by `expressnet export`")
    if len(raw.kinds) != 1 or not raw.kinds <= set(_NAMES):
        kinds = ", ".join(sorted(raw.kinds))
        raise ArtifactError(f"{path} cannot be read: its values are {kinds}, not all F32 or all BF16")
    return raw.arrays, _NAMES[min(raw.kinds)], raw.about


def filled(config: Config, weights: Mapping[str, np.ndarray]) -> nnx.Module:
    """The network of a config with these weights, by canonical name, ready to answer."""
    graph, state = nnx.split(_abstract(config))
    made = nnx.merge(graph, jax.tree.map(lambda a: jnp.asarray(np.zeros(a.shape, a.dtype)), state))
    canonical.from_canonical(made, weights)
    return made


def answer(config: Config) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """The pure function (model, images) -> outputs by name; `model` may be prepared by `models.inference`.

    images: (B, H, W, 3) uint8 in RGB, or (B, H, W, 1) grey, of any size. Returns `probabilities` and `logits`
    (B, classes) and `features` (B, 2 * moe.hidden), the head's input, in float32, and `experts_cnn` and
    `experts_expression` (B, K) int32, the experts chosen, the likeliest first. A network without one of the two layers
    (`model.without`) has no experts of it, and features of the width of what the head then reads; the backbone network
    has no experts at all, and its features are the ResNet's.
    """

    def run(model: Any, images: jax.Array) -> dict[str, jax.Array]:
        output = model(preprocess.preprocess(images, config.model.image_size, config.preprocess))
        features = [output.features[name] for name in expressnet.head_inputs(config)]
        return {
            "probabilities": jax.nn.softmax(output.logits),
            "logits": output.logits,
            "features": jnp.concatenate(features, -1).astype(jnp.float32),
            **{chosen_by(layer): routing.chosen for layer, routing in output.routing.items()},
        }

    return run


def outputs(config: Config) -> tuple[str, ...]:
    """Names of what every graph returns, in order."""
    return ("probabilities", "logits", "features", *map(chosen_by, expressnet.routed_layers(config)))


def chosen_by(layer: str) -> str:
    """What the experts chosen by "moe_cnn" are called: "experts_cnn"."""
    return f"experts_{layer.removeprefix('moe_')}"


def preprocessing(config: Config) -> dict[str, Any]:
    """What config.json says of preprocessing; the graphs contain it."""
    constant = {"added_to_deviation": preprocess.FLAT} if config.preprocess.normalize == "per_image" else {}
    return {**dataclasses.asdict(config.preprocess), **constant, "image_size": config.model.image_size}


def about_weights(config: Config) -> dict[str, Any]:
    """All of a config that decides answers. It is kept beside the weights too, so that they fit no edited config."""
    tree = to_dict(config)
    return {"classes": list(config.data.classes), **{key: tree[key] for key in ("preprocess", "model", "moe")}}


def read_meta(path: Path) -> dict[str, Any]:
    """config.json of an artifact, with the kinds of its values checked. Raises ArtifactError."""
    if not path.is_dir():
        raise ArtifactError(f"no artifact at {path}: it is no folder; make one with `expressnet export`")
    file = path / CONFIG
    try:
        meta = read_json(file, _MAX_CONFIG_BYTES)
    except FileNotFoundError:
        said = f"no artifact in {path}: it has no {CONFIG}; make one with `expressnet export`"
        raise ArtifactError(said) from None
    except DataError as error:
        raise ArtifactError(str(error)) from error
    if not isinstance(meta, dict) or "format" not in meta:
        raise ArtifactError(f"no artifact in {path}: its {CONFIG} has no format number (a run is exported first)")
    if meta["format"] != FORMAT or isinstance(meta["format"], bool):
        raise ArtifactError(f"{file} has format {meta['format']!r:.50}, this version reads format {FORMAT}")
    if signed(meta)["sum"] != meta.get("sum", signed(meta)["sum"]):  # those of versions before 2026-12 have none
        raise ArtifactError(f"{file} is damaged or was edited: its sum is not that of what it holds; {_AGAIN}")
    for key, kind in _KEYS.items():
        if type(meta.get(key)) is not kind:
            raise ArtifactError(f"{file} was edited: {key!r} is missing, or no {kind.__name__}; export again")
    return meta


def signed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds, with the sha256 of all of it but this sum itself."""
    rest = {key: value for key, value in meta.items() if key != "sum"}
    return rest | {"sum": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    if WEIGHTS not in files:
        raise ArtifactError(f"{path / CONFIG} was edited: it lists no {WEIGHTS}; export again")
    for name, expected in files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
            raise ArtifactError(f"{path / CONFIG} lists {name!r:.100}, which is no file of the artifact")
        try:
            if not stat.S_ISREG(os.stat(path / name).st_mode):
                raise ArtifactError(f"{path / name} is no file; {_AGAIN}")
            found = digests.sha256(path / name)
        except FileNotFoundError:
            raise ArtifactError(f"{path / name} is missing; {_AGAIN}") from None
        except OSError as error:
            raise ArtifactError(f"{path / name} cannot be read: {reason(error, named=path / name)}") from error
        if found != expected:
            sums = f"sha256 {found[:12]}..., {CONFIG} has {expected!r:.14}..."
            raise ArtifactError(f"{path / name} is damaged or was changed ({sums}); {_AGAIN}")


def _config(path: Path, meta: dict[str, Any]) -> Config:
    try:
        config = config_files.from_dict(meta["config"])
    except (ConfigError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path / CONFIG} was edited: {reason(error)}; export again") from error
    _check_unedited(
        path,
        {"classes": meta["classes"], "preprocessing": meta["preprocessing"]},
        {"classes": list(config.data.classes), "preprocessing": preprocessing(config)},
    )
    return config


def _check_unedited(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compares two trees as JSON; raises ArtifactError naming the first value that differs."""
    before, after = (config_files.flat(json.loads(json.dumps(tree))) for tree in (expected, found))
    # A setting that is newer than the artifact is not in `before`; a config that lacks a setting has its default.
    changed = [
        f"{key} is {after.get(key)!r:.100} where the artifact was made with {before[key]!r:.100}"
        for key in sorted(before)
        if before[key] != after.get(key)
    ]
    if changed:
        raise ArtifactError(f"{path / CONFIG} was edited: {some(changed)}; export again")


def _check_weights(path: Path, config: Config, weights: Mapping[str, np.ndarray]) -> None:
    # A config of more layers than there are tensors comes first: building those could take hours.
    model, parts = config.model, config.model.parts
    counts = {
        "resnet": sum(model.resnet.blocks), "cnnfe1": len(model.cnnfe1.kernels), "cnnfe2": len(model.cnnfe2.kernels)
    }  # fmt: skip
    layers = sum(counts.get(name, 0) for name in parts)
    layers += config.moe.num_experts * config.moe.layers if expressnet.routed_layers(config) else 0
    if layers > len(weights):
        raise ArtifactError(f"{path / WEIGHTS} does not fit: {len(weights)} tensors for a network of {layers} layers")
    if problems := canonical.misfits(_abstract(config), weights):
        raise ArtifactError(f"{path / WEIGHTS} does not fit: {some([f'{one:.200}' for one in problems])}; export again")


@functools.lru_cache(maxsize=8)
def _abstract(config: Config) -> Any:
    """The network with shapes for arrays."""
    return nnx.eval_shape(lambda: expressnet.create(config))
