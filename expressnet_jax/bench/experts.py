"""`expressnet bench moe`: what the number of experts costs, by the way images reach them, on the mesh of a config.

Legend: B image, E experts, K selected, D in.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from expressnet_jax.config import Config
from expressnet_jax.moe import dispatch, settings
from expressnet_jax.moe.layer import MoE
from expressnet_jax.parallel import mesh as meshes

_EXPERTS, _SELECTED, _IMAGES = (4, 16, 64, 256), (1, 2), (32, 512)


def sweep(config: Config, *, repeats: int) -> dict[str, Any]:
    """One layer of the config's width, forward and backward, with every movement over E, K and B.

    Returns `rows` with `ms` (a median) and its spread, `bytes` (a device's arguments and temporaries, as compiled),
    `expert_bytes` (a device's part of the experts' parameters) and `dropped` (a fraction of the pairs).
    """
    mesh = meshes.create(config)
    across = mesh.shape["expert"]
    names = [name for name in settings.IMPLEMENTATIONS if name != "auto"]
    cases = [
        (dataclasses.replace(config.moe, num_experts=e, top_k=k, implementation=name), b)
        for e in _EXPERTS for k in _SELECTED for b in _IMAGES for name in names
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
    numbers = f"{'ms':>8}{'min':>8}{'max':>8}{'MB':>9}{'experts MB':>12}{'dropped':>9}"
    lines = [
        f"one layer {found['width']} wide, forward and backward, {found['device']}, mesh {found['mesh']}",
        f"this config takes {found['auto']}",
        f"{'E':>4}{'K':>3}{'B':>5}  {'movement':<11}{numbers}",
    ]
    for r in found["rows"]:
        case = f"{r['experts']:>4}{r['selected']:>3}{r['images']:>5}  {r['implementation']:<11}"
        spread = f"{r['ms']:>8.2f}{r['min_ms']:>8.2f}{r['max_ms']:>8.2f}"
        sizes = f"{r['bytes'] / 1e6:>9.2f}{r['expert_bytes'] / 1e6:>12.2f}"
        lines.append(f"{case}{spread}{sizes}{r['dropped']:>9.3f}")
    return "\n".join(lines)


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
        compiled = jax.jit(jax.grad(loss, (0, 1), has_aux=True)).lower(params, x).compile()
        times = []
        for _ in range(repeats + 2):
            began = time.perf_counter()
            _, dropped = jax.block_until_ready(compiled(params, x))
            times.append(1e3 * (time.perf_counter() - began))
    memory: Any = compiled.memory_analysis()
    times = times[2:]
    on_one = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params["experts"]))
    return {
        "experts": moe.num_experts, "selected": moe.selected, "images": b, "implementation": moe.implementation,
        "ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times),
        "bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes, "expert_bytes": on_one,
        "dropped": float(dropped) / (b * moe.selected),
    }  # fmt: skip


def _layer(moe: settings.MoE, d: int) -> MoE:
    return MoE(d, moe, dtype=jnp.dtype(jnp.float32), rngs=nnx.Rngs(params=0))
