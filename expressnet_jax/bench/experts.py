"""`expressnet bench moe`: what the number of experts costs, by the way images reach them, on the mesh of a config.

Legend: B image, E experts, K selected, D in.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from data_pipelines.common.tables import aligned
from expressnet_jax.bench import timer
from expressnet_jax.config import Config
from expressnet_jax.moe import dispatch, settings
from expressnet_jax.moe.layer import MoE
from expressnet_jax.parallel import mesh as meshes

_EXPERTS, _SELECTED, _IMAGES = (4, 16, 64, 256), (1, 2), (32, 512)


def sweep(config: Config, *, repeats: int) -> dict[str, Any]:
    """One layer of the config's width, forward and backward, with every movement over E, K and B.

    Returns `rows` with `ms` (a median) and its spread, `bytes` (a device's arguments and temporaries, as compiled),
    `expert_bytes` (a device's part of the experts' parameters) and `dropped` (a fraction of the pairs). The soft router
    selects every expert, so that K is E.
    """
    mesh = meshes.create(config)
    across = mesh.shape["expert"]
    names = [name for name in settings.IMPLEMENTATIONS if name != "auto"]
    cases = [
        (dataclasses.replace(config.moe, num_experts=e, top_k=k, implementation=name), b)
        for e in _EXPERTS for k in ((e,) if config.moe.router == "soft" else _SELECTED) for b in _IMAGES
        for name in names
        if e % across == 0 and b % mesh.size == 0 and (across > 1 or name not in ("all_gather", "all_to_all"))
    ]  # fmt: skip
    rows = [_measure(moe, config.model.fuse_width, b, mesh, repeats) for moe, b in tqdm(cases, "experts", disable=None)]
    chosen, why = dispatch.choose(config.moe, across)
    return {
        "jax": jax.__version__, "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "mesh": dict(mesh.shape), "width": config.moe.hidden, "layers": config.moe.layers,
        "auto": f"{chosen} ({why})", "rows": rows,
    }  # fmt: skip


def describe(found: dict[str, Any]) -> str:
    """The rows as a table."""
    rows = [["movement", "E", "K", "B", "ms", "min", "max", "MB", "experts MB", "dropped"]]
    for row in found["rows"]:
        case = [str(row[key]) for key in ("implementation", "experts", "selected", "images")]
        figures = [row["ms"], row["min_ms"], row["max_ms"], row["bytes"] / 1e6, row["expert_bytes"] / 1e6]
        rows.append([*case, *(f"{figure:.2f}" for figure in figures), f"{row['dropped']:.3f}"])
    head = f"one layer {found['width']} wide, forward and backward, {found['device']}, mesh {found['mesh']}"
    return "\n".join([head, f"this config takes {found['auto']}", *aligned(rows)])


def _measure(moe: settings.MoE, d: int, b: int, mesh: jax.sharding.Mesh, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    graph, abstract = nnx.split(nnx.eval_shape(lambda: _layer(moe, d)))
    placed = meshes.state_sharding(mesh, nnx.to_pure_dict(abstract))

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, routing = nnx.merge(graph, params)(x, jnp.ones(x.shape[0], bool), train=True)
        return (y * y).mean(), routing.sums.dropped

    with jax.set_mesh(mesh):
        params = jax.jit(lambda: nnx.to_pure_dict(nnx.state(_layer(moe, d))), out_shardings=placed)()
        x = jax.device_put(rng.standard_normal((b, d)).astype(np.float32), meshes.batch_sharding(mesh))
        program, _ = timer.compiled(jax.jit(jax.grad(loss, (0, 1), has_aux=True)), params, x)
        times = timer.spread(timer.milliseconds(lambda: program(params, x), repeats))
        _, dropped = program(params, x)
    memory = program.memory_analysis()
    on_one = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params["experts"]))
    return {
        "experts": moe.num_experts, "selected": moe.selected, "images": b, "implementation": moe.implementation,
        "ms": times["median"], "min_ms": times["min"], "max_ms": times["max"],
        "bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes, "expert_bytes": on_one,
        "dropped": float(dropped) / (b * moe.selected),
    }  # fmt: skip


def _layer(moe: settings.MoE, d: int) -> MoE:
    return MoE(d, moe, dtype=jnp.dtype(jnp.float32), rngs=nnx.Rngs(params=0))
