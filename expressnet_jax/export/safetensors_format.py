"""model.safetensors: the weights by canonical name, in float32 or bfloat16, with what they belong to beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines.common.text import SHORT, one_line

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
#: Tensors of the largest file that is taken for one of ours; the published network has 357.
_MAX_TENSORS = 100_000
_NAMES = {"F32": "float32", "BF16": "bfloat16"}


class FormatError(ValueError):
    """A file that is no safetensors file of ours; the message is a few words."""


def rounded(weights: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """The weights as float32, with the values that they have once stored in `dtype`."""
    return {name: np.asarray(value).astype(DTYPES[dtype]).astype(np.float32) for name, value in weights.items()}


def write(path: Path, weights: Mapping[str, np.ndarray], dtype: str, about: Mapping[str, Any]) -> None:
    """Writes `weights` in `dtype`; `about` is kept as JSON in the file's own metadata."""
    stored = {name: np.ascontiguousarray(np.asarray(value).astype(DTYPES[dtype])) for name, value in weights.items()}
    metadata = {"format": "expressnet_jax", "about": json.dumps(about, sort_keys=True)}
    path.write_bytes(safetensors.numpy.save(stored, metadata))  # `save_file` makes files that only their owner reads


def read(path: Path) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """(weights in float32 by name, the dtype they are stored in, what `write` was told about them).

    Raises FormatError; OSError where there is no such file.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            if len(names) > _MAX_TENSORS:
                raise FormatError(f"{len(names):,} tensors are more than any network of ours has")
            kinds = {file.get_slice(name).get_dtype() for name in names}
            if len(kinds) != 1 or not kinds <= set(_NAMES):
                raise FormatError(f"its values are {', '.join(sorted(map(str, kinds)))}, not all F32 or all BF16")
            weights = {name: np.asarray(file.get_tensor(name)).astype(np.float32) for name in names}
        about = json.loads(metadata.get("about", "null"))
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"no safetensors file ({one_line(error)[:SHORT]})") from error
    if metadata.get("format") != "expressnet_jax" or not isinstance(about, dict):
        raise FormatError("it was not written by `expressnet export`")
    return weights, _NAMES[kinds.pop()], about
