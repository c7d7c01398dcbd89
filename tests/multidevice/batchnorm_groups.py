"""BatchNorm over groups of a batch that lies on 8 devices: prints, as JSON, how far it is from one device, the losses
of a few steps on both, and what the compiled programs, of the layer and of a whole step, send between devices.

    python -m tests.multidevice.batchnorm_groups
"""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from expressnet_jax import target
from expressnet_jax.config import Clock, Model
from expressnet_jax.config import files as config_files
from expressnet_jax.models import layers
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer, state
from expressnet_jax.train import step
from tests.conftest import TINY
from tests.unit.test_step import PLAIN

COLLECTIVE = re.compile(r" (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")
#: (batch, group) on 8 devices: on one of them each, on 2 and 4 of them, and across the borders between them.
CASES = [(32, 4), (32, 2), (32, 8), (32, 16), (48, 4), (48, 16), (32, 0)]


def main() -> None:
    rows = []
    for shape, path, cases in (((8, 1), "cpu", CASES), ((8, 1), "tpu", CASES[::2]), ((2, 4), "cpu", CASES[::2])):
        mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "expert"), axis_types=(AxisType.Auto,) * 2)
        with target.compiling_for(path):  # pixels merged into one axis, or left as they are
            rows += [{"mesh": shape, "path": path, **layer(mesh, b, group)} for b, group in cases]
    chains, run = {g: waits(g) for g in (0, 4)}, {n: losses(n) for n in (1, 8)}
    print(json.dumps({"devices": jax.device_count(), "layer": rows, "chain": chains, "losses": run}))


def layer(mesh: Mesh, b: int, group: int) -> dict[str, object]:
    """The layer alone, forward and backward, on the mesh and on one device."""
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.standard_normal((b, 6, 5, 3)), jnp.float32) for _ in range(2))
    x = x + 0.05 * jnp.arange(b, dtype=jnp.float32)[:, None, None, None]  # groups that differ

    def run(x, g):
        def answer(x, scale, bias):
            bn = layers.BatchNorm(Model(batchnorm_group=group), 3)
            bn.scale[...], bn.bias[...] = scale, bias
            return bn(x, train=True), (bn.mean[...], bn.var[...])

        y, pull, stats = jax.vjp(answer, x, jnp.full(3, 2.0), jnp.ones(3), has_aux=True)
        d_x, *gradients = pull(g)
        return (y, d_x), (gradients, stats)

    wanted = jax.jit(run)(x, g)
    batch = NamedSharding(mesh, PartitionSpec(("data", "expert")))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, batch) for a in (x, g)]
        found = jax.jit(run)(*placed)
        # Without gradients of parameters and moving statistics: what the layers before and after it wait for.
        between = jax.jit(lambda x, g: run(x, g)[0], out_shardings=batch).lower(*placed).compile().as_text()
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    error = max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)
    return {"batch": b, "group": group, "error": error, "awaited": len(COLLECTIVE.findall(between))}


def waits(group: int) -> int:
    """The longest chain of collectives in the tiny network's training step, each of which needs the one before."""
    changes = [*PLAIN, ("batch_size", "32"), ("model.batchnorm_group", str(group))]
    config = config_files.load(TINY, changes)
    mesh = meshes.create(config)
    made = step.programs(config, Clock(32, 160, 24), mesh)
    batch = {
        name: jax.ShapeDtypeStruct((32, *shape), dtype, sharding=meshes.batch_sharding(mesh))
        for name, shape, dtype in (
            ("image", (48, 48, 3), np.uint8), ("label", (), np.int32), ("mask", (), bool), ("index", (), np.int32),
        )
    }  # fmt: skip
    with jax.set_mesh(mesh):
        abstract = state.abstract(config, made.optimizer, mesh)
        text = made.step.lower(abstract, jax.eval_shape(made.zero_sums), batch).compile().as_text()
    return chain(text)


def chain(text: str) -> int:
    """The longest chain of collectives in the main computation of a compiled program, by its text."""
    head, entry = text.split("\nENTRY ")
    assert not COLLECTIVE.search(head), "a collective inside a loop or a call, which this does not follow"
    depth: dict[str, int] = {}
    for line in entry.splitlines()[1:]:
        name, _, rest = line.removeprefix("  ROOT ").partition(" = ")
        before = max((depth.get(operand, 0) for operand in re.findall(r"%[\w.-]+", rest)), default=0)
        depth[name.strip()] = before + bool(COLLECTIVE.search(rest))
    return max(depth.values())


def losses(devices: int) -> list[float]:
    """Of three steps in float64 with groups of 8 in micro-batches of 16: on 8 devices, a group lies on 4 of them."""
    changes = [*PLAIN[:-2], ("batch_size", "32"), ("model.batchnorm_group", "8"), ("optimizer.accumulate", "2")]
    config = config_files.load(TINY, changes)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float64"))
    mesh, clock, found = meshes.create(config, jax.devices()[:devices]), Clock(32, 160, 24), []
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), jax.set_mesh(mesh):
        made, rate = optimizer.create(config, clock), optimizer.schedule(config, clock)
        now, train = state.init(config, made, mesh), step.train_step(config, state.graph(config), made, rate)
        run = jax.jit(lambda now, batch: train(now, step.zero_sums(config), batch))
        for _ in range(3):
            images = rng.integers(0, 256, (32, 48, 48, 3), np.uint8)
            labels, index = rng.integers(0, 8, 32, np.int32), np.arange(32, dtype=np.int32)
            batch = {"image": images, "label": labels, "mask": np.ones(32, bool), "index": index}
            now, sums = run(now, meshes.to_device(mesh, batch))
            found.append(float(sums["loss"]))
    return found


if __name__ == "__main__":
    main()
