"""Prints, as JSON, what a transformed convolution over all devices sends between them, and how far it is off."""

import json
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from expressnet_jax.models import large_conv


def main() -> None:
    large_conv._MAX_BYTES["cpu"] = int(sys.argv[1])  # small: the batch is worked through in parts
    rng = np.random.default_rng(0)
    arrays = [
        jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((32, 28, 28, 5), (9, 9, 5, 6), (32, 28, 28, 6))
    ]

    def run(x, kernel, g):
        y, pull = jax.vjp(lambda x, k: large_conv.conv2d(x, k, sys.argv[2]), x, kernel)
        return y, *pull(g)

    wanted = jax.jit(run)(*arrays)
    mesh = Mesh(np.array(jax.devices()).reshape(-1, 1), ("data", "expert"), axis_types=(AxisType.Auto,) * 2)
    batch, everywhere = NamedSharding(mesh, PartitionSpec(("data", "expert"))), NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, s) for a, s in zip(arrays, (batch, everywhere, batch), strict=True)]
        compiled = jax.jit(run).lower(*placed).compile()
        found = compiled(*placed)
    text = compiled.as_text()
    print(
        json.dumps(
            {
                "devices": jax.device_count(),
                "moved": len(re.findall(r" (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", text)),
                "reduced": sum(
                    math.prod(map(int, shape.split(",")))
                    for shape in re.findall(r"= f32\[([\d,]+)\]\S* all-reduce(?:-start)?\(", text)
                ),
                "error": max(
                    float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(found, wanted, strict=True)
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
