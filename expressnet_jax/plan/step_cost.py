"""The plan of a training step on a machine: compiled where a compiler for it is here, predicted from shapes always.

Legend: b pictures on one device.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax

from expressnet_jax.config import Config
from expressnet_jax.moe import dispatch
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.plan import compiled, hlo, machines, trace
from expressnet_jax.plan.machines import Machine


def make(config: Config, machine: Machine, devices: Sequence[jax.Device] | None) -> dict[str, Any]:
    """The whole plan, ready for JSON; `devices` None: predicted from shapes alone.

    Raises ConfigError where config and machine do not fit together, PlanError where it cannot be compiled here.
    """
    data, expert = meshes.sizes(config, machine.chips)
    found = compiled.step(config, machine, devices) if devices is not None else None
    return of_step(config, machine, found, (data, expert))


def of_step(
    config: Config, machine: Machine, found: compiled.Compiled | compiled.Refused | None, mesh: tuple[int, int]
) -> dict[str, Any]:
    """The plan of a step that the compiler made, refused, or was not asked for."""
    data, expert = mesh
    chips, chip = data * expert, machine.chip
    slices = -(-chips * machine.slices // machine.chips)  # that the devices in use lie in
    expected = predicted(config, machine, data, expert)
    plan: dict[str, Any] = {
        "kind": "compiled, not run" if found is not None else "predicted, neither compiled nor run",
        "machine": {
            "name": machine.name,
            "chips": machine.chips,
            "slices": machine.slices,
            "platform": machine.platform,
            "chip": None if chip is None else chip._asdict(),
        },
        "config": _facts(config, data, expert),
        "jax": jax.__version__,
        "compile_seconds": round(found.seconds, 1) if found is not None else None,
    }
    if isinstance(found, compiled.Compiled):
        plan["memory"] = _memory(compiled.parts(config, found), machine) | {"compiler": found.memory}
        plan["arithmetic"] = _each(found.flops, found.bytes, config.batch_size // chips) | {"loops": found.loops}
        plan["collectives"] = expected["collectives"] if found.collectives is None else hlo.table(found.collectives)
    else:
        plan |= expected | {"memory": _memory(expected["memory"], machine)}
    if isinstance(found, compiled.Refused):
        plan["memory"] |= {"fits": False, "refused": found.message, "needed": found.needed,
                           "compiler_capacity": found.capacity}  # fmt: skip
    plan["predicted"] = expected
    if chip is not None:
        plan |= _speed(config, machine, plan, slices)
    return plan


def predicted(config: Config, machine: Machine, data: int, expert: int) -> dict[str, Any]:
    """`memory` by part, `arithmetic` and `collectives` from shapes; nothing is compiled."""
    chips = data * expert
    alone = trace.of_one_device(config, chips, expert)
    counts, kept = _traced(alone, machine.platform)
    held = trace.held(config, data, expert)
    weights = held["parameters"]
    whole = sum(held[name] for name in trace.PARTS.values())
    # What must be read and written at least: for each part of the batch arrays that the gradient needs, weights forward
    # and backward and their gradients; once the state before and after.
    moved = config.optimizer.accumulate * (2 * kept + 4 * weights) + 2 * whole + held["batch"]
    kinds = {"convolutions": "convolutions", "products": "matrix products", "elementwise": "elementwise"}
    by_precision = {key.removeprefix("at "): counts[key] for key in sorted(counts) if key.startswith("at ")}
    return {
        "memory": held | {"activations kept for gradients": kept, "gradients": weights},
        "arithmetic": _each(counts["convolutions"] + counts["products"], moved, alone.batch_size)
        | {"by_kind": {name: counts[kind] for kind, name in kinds.items()}, "by_precision": by_precision},
        "collectives": _rows(config, data, expert, machine.platform),
    }


@functools.lru_cache(maxsize=64)
def _traced(alone: Config, platform: str) -> tuple[Counter[str], int]:
    return trace.arithmetic(alone, platform), trace.kept(alone, platform)


def _rows(config: Config, data: int, expert: int, platform: str) -> list[dict[str, Any]]:
    """The predicted collectives, each purpose of all layers in one row."""
    found = trace.traffic(config, data, expert, platform)
    return hlo.summed(found, ("what", "kind", "axis", "devices"), ("bytes", "arrays"))


def _memory(parts: dict[str, int], machine: Machine) -> dict[str, Any]:
    """`parts` with their `total`, a device's `capacity` and whether the one `fits` in the other."""
    total = sum(parts.values())
    capacity = None if machine.chip is None else int(machine.chip.memory)
    return {"parts": parts, "total": total, "capacity": capacity, "fits": capacity is None or total <= capacity}


def _each(flops: float, moved: float, b: int) -> dict[str, Any]:
    return {
        "flops_per_step": int(flops), "flops_per_image": int(flops / b),
        "bytes_per_step": int(moved), "bytes_per_image": int(moved / b),
    }  # fmt: skip


def _speed(config: Config, machine: Machine, plan: dict[str, Any], slices: int) -> dict[str, Any]:
    """`bound` of the step, `scaling` from one chip to all at the same batch a chip, `slices` beyond that (TPU)."""
    chip, platform, expected = machine.chip, machine.platform, plan["predicted"]
    assert chip is not None
    chips, b, expert = (plan["config"][name] for name in ("devices", "batch_per_device", "expert"))
    by_precision, flops = expected["arithmetic"]["by_precision"], plan["arithmetic"]["flops_per_step"]
    computing = machines.arithmetic(chip, by_precision, flops)
    # The compiler counts a loop's body once; no program moves less than what was predicted.
    reading = max(one["arithmetic"]["bytes_per_step"] for one in (plan, expected)) / chip.bandwidth
    # Compiled for several slices, what crosses between them is no collective any more: transfers by the runtime.
    sent = machines.communication(chip, (expected if slices > 1 else plan)["collectives"], slices)

    def rows(n: int) -> list[dict[str, Any]]:
        across = min(expert, n)
        along = dataclasses.replace(config.mesh, data=-1, expert=across)
        return _rows(dataclasses.replace(config, mesh=along, batch_size=b * n), n // across, across, platform)

    alone, per_slice = max(computing, reading), max(1, chips // slices)
    host = chip.host if platform == "gpu" else per_slice
    counts = [(n, s) for n, s in machines.powers(chips, host) if n % min(expert, n) == 0]
    found = {
        "bound": machines.bound(config.batch_size, computing, reading, sent),
        "scaling": machines.scaling(chip, b, alone, counts, rows),
        "assumptions": [*machines.ASSUMPTIONS, *([] if "compiler" in plan["memory"] else [machines.FROM_SHAPES])],
    }
    if platform == "tpu" and per_slice > 1:
        several = [(per_slice * s, s) for s in sorted({1, 2, 4, 8, slices})]
        found["several_slices"] = machines.scaling(chip, b, alone, several, rows)
    return found


def _facts(config: Config, data: int, expert: int) -> dict[str, Any]:
    """What of the config decides the plan."""
    return {
        "network": config.model.network, "preset": config.model.preset, "image_size": config.model.image_size,
        "dtype": config.model.dtype, "batch_size": config.batch_size, "batch_per_device": config.batch_size
        // (data * expert), "accumulate": config.optimizer.accumulate, "devices": data * expert, "data": data,
        "expert": expert, "shard_optimizer": config.mesh.shard_optimizer, "num_experts": config.moe.num_experts,
        "movement": dispatch.choose(config.moe, expert)[0], "optimizer": config.optimizer.name,
    }  # fmt: skip
