"""Run by test_sharded_optimizer.py on 8 devices: prints how many bytes of each part of the state one device holds."""

import dataclasses
import json

import jax

from expressnet_jax.config import Clock
from expressnet_jax.config import files as config_files
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer, state
from tests.conftest import TINY


def main() -> None:
    found = []
    for split, expert in ((False, 1), (True, 1), (True, 4)):
        config = config_files.load(TINY)
        config = dataclasses.replace(
            config, mesh=dataclasses.replace(config.mesh, shard_optimizer=split, expert=expert)
        )
        mesh = meshes.create(config)
        made = state.init(config, optimizer.create(config, Clock(16, 160, 24)), mesh)
        device = mesh.devices.flat[0]
        found.append(
            {
                part: sum(
                    shard.data.nbytes
                    for leaf in jax.tree.leaves(getattr(made, part))
                    for shard in leaf.addressable_shards
                    if shard.device == device
                )
                for part in ("params", "opt_state", "ema")
            }
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
