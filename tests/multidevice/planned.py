"""Compiles the training step of the tiny network for meshes of 1 to 8 of this process's devices, and counts, by itself,
what the programs hold; prints that and what `plan` predicts from shapes, as JSON.

    python -m tests.multidevice.planned MESH [MESH ...]      MESH: DATAxEXPERT[,KEY=VALUE ...]
"""

import json
import re
import sys
from collections import Counter

import jax
import numpy as np

from expressnet_jax.config import Clock
from expressnet_jax.config import files as config_files
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.plan import machines
from expressnet_jax.plan import step_cost as plan
from expressnet_jax.runs import state
from expressnet_jax.train import step as steps
from tests.conftest import TINY

WIDTHS = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "bf16": 2, "c64": 8}


def main() -> None:
    found = {}
    for name in sys.argv[1:]:
        shape, *settings = name.split(",")
        data, expert = map(int, shape.split("x"))
        overrides = [("mesh.data", str(data)), ("mesh.expert", str(expert)), *(s.split("=") for s in settings)]
        config = config_files.load(TINY, overrides)
        predicted = plan.predicted(config, machines.cpus(data * expert), data, expert)
        sums = Counter()
        for row in predicted["collectives"]:
            sums[f"{row['kind']}/{row['devices']}"] += row["bytes"]
        held = {key: size for key, size in predicted["memory"].items() if key not in
                ("activations kept for gradients", "gradients")}  # fmt: skip
        found[name] = {"predicted": sums, "predicted_arguments": sum(held.values()), **compiled(config, data, expert)}
    print(json.dumps(found))


def compiled(config, data, expert):
    mesh = meshes.create(config, jax.devices()[: data * expert])
    made = steps.programs(config, Clock(config.batch_size, 160, 24), mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=meshes.batch_sharding(mesh))
        for name, shape, dtype in (
            ("image", (32, 32, 3), np.uint8), ("label", (), np.int32), ("mask", (), bool), ("index", (), np.int32),
        )
    }  # fmt: skip
    with jax.set_mesh(mesh):
        step = made.step.lower(state.abstract(config, made.optimizer, mesh), jax.eval_shape(made.zero_sums), batch)
        program_ = step.compile()
    return {
        "compiled": count(program_.as_text(), data * expert),
        "arguments": program_.memory_analysis().argument_size_in_bytes,
        "flops": program_.cost_analysis()["flops"],
    }


def count(text: str, devices: int) -> Counter:
    """Bytes of every collective by "kind/devices of a group": what an all-reduce, all-gather, all-to-all or permutation
    gives, and what a reduce-scatter starts with. Written for what a CPU's compiler prints, and for nothing else."""
    sums = Counter()
    for line in text.splitlines():
        found = re.search(r"= (.*) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(", line)
        if not found:
            continue
        size = sum(
            WIDTHS[kind] * int(np.prod([int(d) for d in dims.split(",") if d]))
            for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", found[1]))
        )
        group = devices if found[2] == "collective-permute" else group_size(line, devices)
        sums[f"{found[2]}/{group}"] += size * (group if found[2] == "reduce-scatter" else 1)
    return Counter({key: size for key, size in sums.items() if not key.endswith("/1")})


def group_size(line: str, devices: int) -> int:
    groups = line.split("replica_groups=", 1)[1]
    if groups.startswith("{{"):
        return groups[2:].split("}")[0].count(",") + 1
    if groups.startswith("["):
        return int(re.match(r"\[\d+,(\d+)\]", groups)[1])
    sizes, axes = re.match(r"mesh\[(.*?)\].*?\{(.*?)\}", groups).groups()
    assert ":" not in axes, line
    return int(np.prod([int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes) if f"'{name}'" in axes]))


if __name__ == "__main__":
    main()
