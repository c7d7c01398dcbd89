"""A bound on a step's time from the makers' figures: arithmetic, memory and links, each at its peak.

Neither latency nor a share of the peaks that is really reached is assumed: no program of this arithmetic and traffic
can take less time on that machine, and this one may well take more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from expressnet_jax.plan import hlo
from expressnet_jax.plan.machines import Chip

ASSUMPTIONS = (
    "every figure of a chip is its maker's peak; nothing is assumed to reach only a part of it: a bound, not a promise",
    "on a chip, arithmetic and memory traffic overlap fully: the longer of both counts",
    "a collective sends what a ring sends, over all links of a chip at once; latency is not counted, so many small "
    "collectives cost more than is said here",
    "across slices or hosts, a collective is one inside of each, then one of every chip's share between them",
    "'overlapped': communication is hidden behind the rest as far as it is not longer; 'not overlapped': none of it is",
    "a chip's own work is that of this step for every number of chips; --sweep compiles for each of them",
    "the loader keeps up; evaluations and checkpoints are not counted",
)
FROM_SHAPES = (
    "predicted: memory traffic is the least that any program needs (arrays kept for gradients written and read once, "
    "the weights and their gradients, the optimizer); the paper's network compiled for a v5e moves six times as much"
)


def arithmetic(chip: Chip, by_precision: dict[str, int], compiled_flops: float = 0.0) -> float:
    """Seconds of convolutions and matrix products; with the compiler's own count at least those of that many."""
    rates = {
        "bfloat16": chip.bfloat16, "float16": chip.bfloat16, "highest": chip.exact,
        "high": chip.bfloat16 / 3 if chip.platform == "tpu" else chip.float32,  # there three products of bfloat16 parts
    }  # fmt: skip
    seconds = sum(flops / rates.get(precision, chip.float32) for precision, flops in by_precision.items())
    return max(seconds, compiled_flops / chip.bfloat16)


def sending(chip: Chip, kind: str, size: float, devices: int, slices: int) -> float:
    """Seconds of one collective of `size` bytes among so many devices that lie in so many slices."""
    inside = max(1, devices // slices)
    links = hlo.sent(kind, size, inside) / chip.link
    return links + (hlo.sent(kind, size / inside, slices) / chip.network if slices > 1 else 0.0)


def communication(chip: Chip, rows: Iterable[dict[str, Any]], slices: int) -> float:
    """Seconds of all collectives, one after the other; only those along `data` leave a slice."""
    return sum(
        sending(chip, row["kind"], row["bytes"], row["devices"], slices if "data" in row["axis"] else 1) for row in rows
    )


def bound(images: int, compute: float, memory: float, sent: float) -> dict[str, Any]:
    """The step's time in ms and images/s, with communication overlapped and not; `limit` names what takes longest."""
    alone = max(compute, memory)
    times = {"overlapped": max(alone, sent), "not_overlapped": alone + sent}
    longest = max((compute, "arithmetic"), (memory, "memory bandwidth"), (sent, "communication"))
    return {
        "arithmetic_ms": 1e3 * compute, "memory_ms": 1e3 * memory, "communication_ms": 1e3 * sent,
        "step_ms": {name: 1e3 * seconds for name, seconds in times.items()},
        "images_per_second": {name: images / seconds for name, seconds in times.items()},
        "limit": longest[1],
    }  # fmt: skip


def scaling(
    chip: Chip, each: int, alone: float, counts: Iterable[tuple[int, int]],
    rows: Callable[[int], Iterable[dict[str, Any]]],
) -> list[dict[str, Any]]:  # fmt: skip
    """For (chips, slices): images/s at `each` pictures a chip, and the efficiency against as many single chips.

    `alone` is the time of a chip without communication; `rows(chips)` gives the collectives.
    """
    found = []
    for chips, slices in counts:
        sent = communication(chip, rows(chips), slices)
        made = bound(each * chips, alone, 0.0, sent)
        row: dict[str, Any] = {"chips": chips, "slices": slices, "batch_size": each * chips}
        row |= {key: made[key] for key in ("communication_ms", "step_ms", "images_per_second")}
        row["efficiency"] = {name: alone * 1e3 / ms for name, ms in made["step_ms"].items()}
        found.append(row)
    return found


def powers(chips: int, per_slice: int) -> list[tuple[int, int]]:
    """1, 2, 4 ... up to so many chips, and how many slices they take."""
    numbers = [2**i for i in range(int(math.log2(chips)) + 1)]
    numbers += [] if numbers[-1] == chips else [chips]
    return [(n, -(-n // per_slice)) for n in numbers]
