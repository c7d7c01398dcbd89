"""Each movement against the published form, forward and gradient, on random data and the devices at hand.

Legend: B image, D in.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.common.tables import aligned
from data_pipelines.common.text import counted
from expressnet_jax.moe import router
from expressnet_jax.moe.layer import MoE
from expressnet_jax.moe.settings import IMPLEMENTATIONS
from expressnet_jax.moe.settings import MoE as Settings

MOVEMENTS = tuple(name for name in IMPLEMENTATIONS if name not in ("auto", "dense"))
#: Largest difference allowed, of values and of gradients.
TOLERANCES = {"float32": (1e-6, 1e-5), "bfloat16": (2e-2, 2e-2)}


def differences(settings: Settings, mesh: Mesh, *, d: int, b: int, padding: int, dtype: str) -> dict[str, float]:
    """Largest differences of one movement on `mesh` from `dense` on one device.

    Args: settings: with the `implementation` to check; its room is made large enough to drop nothing. d: input width;
        b: images, `padding` of them to be ignored; dtype: of the images, and so of both sides' arithmetic.
    Returns: "forward", and of the gradients "inputs", "router" and "experts", each relative to the largest value
        expected; the loss holds all auxiliary losses.
    """
    settings = dataclasses.replace(settings, capacity_factor=float(settings.num_experts))
    oracle = dataclasses.replace(settings, implementation="dense")
    params, x, mask, probe = _data(settings, d, b, padding)
    batch, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec(("data", "expert")), PartitionSpec()))
    experts = NamedSharding(mesh, PartitionSpec("expert"))
    x = x.astype(dtype)
    expected = jax.jit(_outcome(oracle, mask, probe))(params, x)
    parts = {part: _placed(value, experts if part == "experts" else everywhere) for part, value in params.items()}
    with jax.set_mesh(mesh):
        found = jax.jit(_outcome(settings, mask, probe), out_shardings=everywhere)(parts, _placed(x, batch))
    return {name: _largest(found[name], expected[name]) for name in expected}


def check(settings: Settings, mesh: Mesh, *, d: int, b: int) -> list[dict[str, Any]]:
    """`differences` of every movement in float32 and bfloat16, each with `passed`."""
    rows = []
    for implementation in MOVEMENTS:
        for dtype, (values, gradients) in TOLERANCES.items():
            one = dataclasses.replace(settings, implementation=implementation)
            found = differences(one, mesh, d=d, b=b, padding=b // 4, dtype=dtype)
            passed = all(size <= (values if name == "forward" else gradients) for name, size in found.items())
            rows.append({"implementation": implementation, "dtype": dtype, **found, "passed": passed})
    return rows


def describe(rows: list[dict[str, Any]], mesh: Mesh) -> str:
    """The rows as a table."""
    devices = counted(mesh.size, f"{mesh.devices.flat[0].platform} device")
    shape = f"{devices}, {mesh.shape['data']} along data x {mesh.shape['expert']} along expert"
    names = ("forward", "inputs", "router", "experts")
    table = [("movement", "dtype", *names, "")]
    for row in rows:
        sizes, verdict = (f"{row[name]:.1e}" for name in names), "passed" if row["passed"] else "OFF"
        table.append((row["implementation"], row["dtype"], *sizes, verdict))
    return "\n".join([f"largest differences from dense, relative to the largest value, on {shape}", *aligned(table)])


def _data(settings: Settings, d: int, b: int, padding: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    layer = MoE(d, settings, dtype=jnp.dtype(jnp.float32), rngs=nnx.Rngs(params=0))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((b, d)).astype(np.float32)
    probe = rng.standard_normal((b, settings.hidden)).astype(np.float32)
    params = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
    return params, x, np.arange(b) < b - padding, probe


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays that every process holds whole, each process placing its own devices' parts."""
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, sharding, lambda index: a[index]), tree)


def _outcome(settings: Settings, mask: np.ndarray, probe: np.ndarray) -> Any:
    """params, x -> the layer's output where it counts, and the gradients of a loss of it."""

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        layer = MoE(x.shape[1], settings, dtype=jnp.dtype(jnp.float32), rngs=nnx.Rngs(params=0))
        nnx.update(layer, params)
        y, routing = layer(x, jnp.asarray(mask), train=True, rngs=nnx.Rngs(dropout=1))
        y = y.astype(jnp.float32) * mask[:, None]
        every_loss = dataclasses.replace(settings, importance_loss=0.1, load_loss=0.1, balance_loss=0.1, z_loss=0.1)
        return (y * probe).mean() + router.weighted_loss(routing.sums, every_loss), y

    def outcome(params: Any, x: jax.Array) -> dict[str, Any]:
        (gradients, inputs), y = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        inputs = inputs.astype(jnp.float32)
        return {"forward": y, "inputs": inputs, "router": gradients["gate"], "experts": gradients["experts"]}

    return outcome


def _largest(found: Any, expected: Any) -> float:
    """The largest difference over all arrays of a tree, relative to the largest value expected in each."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max()) for a, b in pairs)
