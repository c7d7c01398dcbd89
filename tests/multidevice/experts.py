"""Random mixtures of experts on meshes of 8 devices, compared with `dense` on one: worst differences as JSON.

The first four cases take every movement to every mesh in float32, further ones are in bfloat16.

    python -m tests.multidevice.experts CASES [COORDINATOR PROCESSES NUMBER]

With a coordinator it is one of several processes, and the devices are those of all of them.
"""

import json
import sys

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh

from expressnet_jax.moe import layer as layers
from expressnet_jax.moe import selfcheck
from expressnet_jax.moe.settings import MoE

AUTO = (AxisType.Auto,) * 2


def main() -> None:
    cases, *cluster = sys.argv[1:]
    if cluster:
        jax.distributed.initialize(cluster[0], int(cluster[1]), int(cluster[2]))
    rng = np.random.default_rng(0)
    worst: dict[str, dict[str, float]] = {}
    devices = np.array(jax.devices())
    shapes = [(8, 1), (1, 8), (2, 4), (4, 2)] + ([] if cluster else [(1, 1)])
    for number in range(int(cases)):
        for place, shape in enumerate(shapes):
            grid = devices[: shape[0] * shape[1]].reshape(shape)
            mesh = Mesh(grid, ("data", "expert"), axis_types=AUTO)
            settings = drawn(rng, shape[1], selfcheck.MOVEMENTS[(number + place) % len(selfcheck.MOVEMENTS)])
            b = int(rng.integers(1, 5)) * 8
            dtype = "float32" if number < len(selfcheck.MOVEMENTS) else "bfloat16"
            sizes = {"d": int(rng.integers(2, 40)), "b": b, "padding": int(rng.integers(0, b // 2))}
            found = selfcheck.differences(settings, mesh, **sizes, dtype=dtype)
            before = worst.setdefault(f"{settings.implementation}/{dtype}", dict.fromkeys(found, 0.0))
            before.update({name: max(size, before[name]) for name, size in found.items()})
    if jax.process_index() == 0:
        others = {} if cluster else of_other_images(Mesh(devices.reshape(2, 4), ("data", "expert"), axis_types=AUTO))
        counts = {"devices": devices.size, "processes": jax.process_count()}
        print(json.dumps({**counts, "worst": worst, "of_other_images": others}))


def of_other_images(mesh: Mesh) -> dict[str, float]:
    """How much an image's answer in evaluation changes with the others of its batch, by movement: the room that the
    config gives is far too small for them, since all want the experts of the first."""
    rng = np.random.default_rng(1)
    alike = np.tile(rng.standard_normal((1, 12)), (32, 1)).astype(np.float32)
    other = np.where(np.arange(32)[:, None] == 3, alike, rng.standard_normal((32, 12))).astype(np.float32)
    found = {}
    for name in selfcheck.MOVEMENTS:
        settings = MoE(num_experts=8, hidden=20, implementation=name, capacity_factor=0.1)
        layer = layers.MoE(12, settings, dtype=np.dtype("float32"), rngs=nnx.Rngs(params=0))
        with jax.set_mesh(mesh):
            answer = nnx.jit(lambda layer, x: layer(x, x[:, 0] < np.inf)[0])
            found[name] = float(np.abs(np.asarray(answer(layer, alike))[3] - np.asarray(answer(layer, other))[3]).max())
    return found


def drawn(rng: np.random.Generator, across: int, implementation: str) -> MoE:
    """Settings with a number of experts that `across` divides."""
    e = across * int(rng.integers(1, 1 + 16 // across))
    k = int(rng.integers(1, min(e, 4) + 1))
    return MoE(
        num_experts=e, top_k=k, hidden=int(rng.integers(1, 40)), layers=int(rng.integers(1, 3)),
        router=str(rng.choice(["top_k", "top_k", "soft"])), renormalize=bool(k > 1 and rng.integers(2)),
        noise_std=float(rng.choice([0.0, 0.3])), balance_bias=float(rng.choice([0.0, 0.01])),
        implementation=implementation, by_weight=bool(rng.integers(2)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
