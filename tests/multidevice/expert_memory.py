"""Compiles the training step of the tiny network with 64 experts, spread over 1 and 8 devices, and prints what
the compiled programs say of a device's arguments, in bytes: nothing is run."""

import json

import jax
import numpy as np

from expressnet_jax.config import Clock
from expressnet_jax.config import files as config_files
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer, state
from expressnet_jax.train import step
from tests.conftest import TINY


def main() -> None:
    sizes = {}
    for across in (1, 8):
        config = config_files.load(TINY, [("moe.num_experts", "64"), ("mesh.expert", str(across))])
        mesh, clock = meshes.create(config), Clock(config.batch_size, 160, 24)
        made = optimizer.create(config, clock)
        train = step.train_step(config, state.graph(config), made, optimizer.schedule(config, clock))
        batch = {
            name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=meshes.batch_sharding(mesh))
            for name, shape, dtype in (
                ("image", (48, 48, 3), np.uint8), ("label", (), np.int32), ("mask", (), bool), ("index", (), np.int32),
            )
        }  # fmt: skip
        abstract = state.abstract(config, made, mesh)
        sums = jax.eval_shape(lambda config=config: step.zero_sums(config))
        with jax.set_mesh(mesh):
            compiled = jax.jit(train).lower(abstract, sums, batch).compile()
        sizes[across] = compiled.memory_analysis().argument_size_in_bytes
    paths = jax.tree_util.tree_leaves_with_path(abstract)
    experts = sum(a.size * a.dtype.itemsize for path, a in paths if "'experts'" in jax.tree_util.keystr(path))
    print(json.dumps({"arguments": sizes, "experts": experts}))


if __name__ == "__main__":
    main()
