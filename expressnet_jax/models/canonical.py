"""One name for each parameter, whatever holds it: "cnnfe1/conv1/kernel", "resnet/stage3/block2/conv3_bn/gamma".

The paper's network has 357 of them. Kernels are HWIO, or in x out; the experts of a layer, stacked in memory, are
named one by one ("moe_cnn/expert0/kernel"); BatchNorm has gamma, beta, mean and var. Files that leave or enter this
project use these names, so they depend on neither flax nor the mesh.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipelines.common.text import counted
from expressnet_jax.moe.layer import EXPERTS, is_expert_path

_BATCH_NORM = {"scale": "gamma", "bias": "beta", "mean": "mean", "var": "var"}


class NamesError(ValueError):
    """Names or shapes that do not fit the network; the message lists all of them."""


def to_canonical(model: nnx.Module) -> dict[str, np.ndarray]:
    """All parameters and BatchNorm statistics of `model` by canonical name, sorted, as NumPy arrays."""
    named: dict[str, np.ndarray] = {}
    for path, variable in _variables(model):
        value = np.asarray(jax.device_get(variable.get_value()))
        named |= {name: value if e is None else value[e] for name, e in _names(path, value.shape)}
    return dict(sorted(named.items()))


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Shapes by canonical name; `model` may be abstract."""
    return {
        name: tuple(variable.get_value().shape[e is not None :])
        for path, variable in _variables(model)
        for name, e in _names(path, variable.get_value().shape)
    }


def sizes(model: nnx.Module) -> dict[str, int]:
    """Number of values by canonical name; `model` may be abstract."""
    return {name: math.prod(shape) for name, shape in shapes(model).items()}


def misfits(model: nnx.Module, mapping: Mapping[str, Any]) -> list[str]:
    """What keeps the arrays of `mapping` out of `model`: missing and unknown names, and wrong shapes, sorted."""
    wanted, found = shapes(model), {name: tuple(np.shape(value)) for name, value in mapping.items()}
    problems = [f"missing: {name} {shape}" for name, shape in wanted.items() if name not in found]
    problems += [f"unknown: {name} {shape}" for name, shape in found.items() if name not in wanted]
    problems += [
        f"shape of {name}: {found[name]}, the network has {shape}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    return sorted(problems)


def from_canonical(model: nnx.Module, mapping: Mapping[str, Any]) -> None:
    """Puts the arrays of `mapping` in `model`, cast to the parameters' dtypes.

    Raises NamesError, changing nothing, where a name is missing, unknown, or has the wrong shape.
    """
    if problems := misfits(model, mapping):
        count = counted(len(problems), "name does", "names do")
        raise NamesError(f"{count} not fit the network: " + "; ".join(problems))
    for path, variable in _variables(model):
        parts = [mapping[name] for name, _ in _names(path, variable.get_value().shape)]
        variable[...] = jnp.asarray(np.stack(parts) if is_expert_path(path) else parts[0], variable.get_value().dtype)


def digest(named: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, shapes and float32 values: equal digests mean equal weights."""
    state = hashlib.sha256()
    for name in sorted(named):
        value = np.ascontiguousarray(named[name], np.float32)
        state.update(f"{name} {value.shape}\n".encode())
        state.update(value.tobytes())
    return state.hexdigest()


def _variables(model: nnx.Module) -> list[tuple[tuple[str, ...], Any]]:
    kinds = nnx.Any(nnx.Param, nnx.BatchStat)
    return [(tuple(map(str, path)), v) for path, v in nnx.to_flat_state(nnx.state(model, kinds))]


def _names(path: tuple[str, ...], shape: tuple[int, ...]) -> list[tuple[str, int | None]]:
    """Canonical names of one variable: (name, None), or for stacked experts (name, e) for each expert."""
    *parents, leaf = path
    if is_expert_path(path):
        at = parents.index(EXPERTS)
        return [("/".join([*parents[:at], f"expert{e}", *parents[at + 1 :], leaf]), e) for e in range(shape[0])]
    if parents and (parents[-1].startswith("bn") or parents[-1].endswith("_bn")):
        leaf = _BATCH_NORM[leaf]
    return [("/".join([*parents, leaf]), None)]
