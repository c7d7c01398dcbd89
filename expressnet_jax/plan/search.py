"""Searches over plans: the largest batch that fits, the best split of the experts, several topologies."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from data_pipelines.common.text import counted
from expressnet_jax.config import Config, ConfigError, checks
from expressnet_jax.models import expressnet
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.plan import machines
from expressnet_jax.plan import step_cost as plan

_ATTEMPTS = 6  # compilations after the first two
_NEVER = 1 << 40  # pictures: more than any batch, where none was refused yet


def with_batch(config: Config, batch_size: int) -> Config:
    """The config with another global batch. Raises ConfigError where something else of it then does not fit."""
    changed = dataclasses.replace(config, batch_size=batch_size)
    checks.check(changed)
    return changed


def largest_batch(
    config: Config, machine: machines.Machine, devices: Sequence[jax.Device] | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The largest batch a device that fits: memory as an affine function of the batch from two compilations, confirmed
    by a third; smaller ones where that fails. Without `devices` by shapes alone.

    Returns `batch_per_device` (0: not even the smallest fits), `batch_size`, `total`, `capacity`, `tried`, `confirmed`.
    """
    if machine.chip is None:
        raise ConfigError("--search needs the memory of a chip: it goes with --topology or --gpus, not with --cpus")
    data, expert = meshes.sizes(config, machine.chips)
    chips, capacity, tried = data * expert, int(machine.chip.usable), []
    group = config.model.batchnorm_group or 1  # divides what all devices together have of one part of the batch
    unit = config.optimizer.accumulate * group // math.gcd(group, chips)  # a device's batch is a multiple of it

    def needed(b: int) -> int | None:
        """Bytes for b pictures a device, None where it does not fit."""
        nonlocal capacity
        changed = with_batch(config, b * chips)
        if devices is None:
            total = sum(plan.predicted(changed, machine, data, expert)["memory"].values())
        else:
            say(f"compiling with {counted(b, 'picture')} a device")
            found = plan.compiled(changed, machine, devices)
            if isinstance(found, plan.Refused):
                capacity = found.capacity or capacity  # what the compiler leaves to programs
                tried.append({"batch_per_device": b, "total": found.needed or None, "fits": False})
                return None
            total = sum(plan.parts(changed, found).values())
        tried.append({"batch_per_device": b, "total": total, "fits": total <= capacity})
        return total if total <= capacity else None

    best = _search(needed, unit, max(unit, config.batch_size // chips // unit * unit), lambda: capacity)
    return {
        "batch_per_device": best, "batch_size": best * chips, "capacity": capacity, "tried": tried,
        "platform": machine.platform,
        "total": next((one["total"] for one in tried if one["batch_per_device"] == best), None),
        "confirmed": "by compiling" if devices is not None else "by the model alone, nothing was compiled",
    }  # fmt: skip


def _search(needed: Callable[[int], int | None], unit: int, first: int, capacity: Callable[[], int]) -> int:
    """The largest multiple of `unit` known to fit, at most `_ATTEMPTS` steps after the first two that fit."""
    known: dict[int, int] = {}
    refused, steps, planned = _NEVER, 0, [2 * first, first]
    while steps < _ATTEMPTS:
        b = planned.pop() if planned else _next(known, refused, unit, capacity())
        if b is None:
            break
        steps += len(known) > 1
        if (size := needed(b)) is None:
            refused = min(refused, b)
        else:
            known[b] = size
    return max(known, default=0)


def _next(known: dict[int, int], refused: int, unit: int, capacity: int) -> int | None:
    """What to try next: where the line through the two largest reaches the capacity, else the middle; None: nothing."""
    largest = max(known, default=0)
    if largest + unit >= refused:
        return None
    middle = (largest + refused) // 2 // unit * unit
    if len(known) < 2:
        return middle
    smaller = sorted(known)[-2]
    slope = (known[largest] - known[smaller]) / (largest - smaller)
    guess = largest + int((capacity - known[largest]) / slope) // unit * unit if slope > 0 else 2 * largest
    if guess <= largest:
        return None
    return guess if guess < refused else middle


def splits(config: Config, machine: machines.Machine) -> dict[str, Any]:
    """Every number of devices that the experts can be spread over, compared by shapes: `rows`, `best`, `why`."""
    if not expressnet.routed_layers(config):
        because = "by model.network or model.without this one has none"
        raise ConfigError(f"--splits goes with a network that has experts; {because}")
    chips = machine.chips
    per_slice = machine.chip.host if machine.platform == "gpu" and machine.chip else chips // machine.slices
    rows = []
    for expert in range(1, chips + 1):
        if config.moe.num_experts % expert or chips % expert or min(per_slice, chips) % expert:
            continue
        along = dataclasses.replace(config.mesh, data=-1, expert=expert)
        made = plan.make(dataclasses.replace(config, mesh=along), machine, None)
        row = {
            "data": chips // expert, "expert": expert, "movement": made["config"]["movement"],
            "memory": made["memory"]["total"], "fits": made["memory"]["fits"],
            "collective_bytes": sum(one["bytes"] for one in made["collectives"]),
        }  # fmt: skip
        if machine.chip is not None:
            row |= {"communication_ms": made["bound"]["communication_ms"], "step_ms": made["bound"]["step_ms"]}
        rows.append(row)
    fitting = [row for row in rows if row["fits"]] or rows
    best = min(fitting, key=lambda row: (row.get("step_ms", {}).get("not_overlapped", row["collective_bytes"]),
                                         row["memory"]))  # fmt: skip
    return {"num_experts": config.moe.num_experts, "rows": rows, "best": best, "why": _why(rows, best)}


def _why(rows: list[dict[str, Any]], best: dict[str, Any]) -> str:
    if len(rows) == 1:
        return "no other number divides both the experts and the devices of a slice"
    if not all(row["fits"] for row in rows) and best["fits"]:
        reason = f"{sum(row['fits'] for row in rows)} of {len(rows)} fit; of those "
    else:
        reason = "all fit; " if best["fits"] else "none fits; "
    other = min((row for row in rows if row is not best), key=lambda row: row["collective_bytes"])
    if "step_ms" in best:
        sent = f"{best['communication_ms']:.3g} ms of communication, against {other['communication_ms']:.3g}"
        return f"{reason}the shortest step without overlap: {sent} with mesh.expert={other['expert']}"
    return f"{reason}{best['collective_bytes']:,} bytes in collectives, against {other['collective_bytes']:,}"


def sweep(config: Config, shapes: Sequence[str], slices: int, say: Callable[[str], None]) -> tuple[list[Any], int]:
    """One row for each topology, all compiled with the batch a chip that the first one has; and that batch.

    Fewer rows where Ctrl-C comes after the first one.
    """
    chosen = [machines.by_name(shape, slices) for shape in shapes]
    data, expert = meshes.sizes(config, chosen[0].chips)
    b, asked = config.batch_size // (data * expert), []
    for machine in chosen:  # mistakes are said before hours of compiling
        changed = with_batch(config, b * machine.chips if config.mesh.data == -1 else config.batch_size)
        meshes.sizes(changed, machine.chips)
        asked.append((machine, changed, plan.devices(machine)))
    rows: list[dict[str, Any]] = []
    for machine, changed, devices in asked:
        say(f"compiling for {machine.name}")
        try:
            made = plan.make(changed, machine, devices)
        except KeyboardInterrupt:
            if rows:
                break
            raise
        sums: dict[str, int] = {}  # bytes of all collectives by kind
        for one in made["collectives"]:
            sums[one["kind"]] = sums.get(one["kind"], 0) + one["bytes"]
        row = {
            "kind": made["kind"],
            "machine": machine.name,
            "chips": made["config"]["devices"],
            "batch_size": changed.batch_size,
        }
        row |= {key: made["memory"][key] for key in ("total", "capacity", "fits")}
        row |= {key: made["arithmetic"][key] for key in ("flops_per_image", "bytes_per_image")}
        row |= {"compile_seconds": made["compile_seconds"], "collectives": sums, "bound": made["bound"]}
        rows.append(row)
    return rows, b
