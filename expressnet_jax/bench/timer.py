"""How long something takes on this machine: the time to compile it, and several runs after two that do not count."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from data_pipelines.common.text import Progress

WARM_UP = 2


def compiled(function: Any, *arguments: Any, shown: bool = False) -> tuple[Any, float]:
    """A jitted function as a program for these arguments, and the seconds that this took; `shown`: as it goes on."""
    jax.config.update("jax_enable_compilation_cache", False)  # or the time would be that of reading a file
    began = time.perf_counter()
    with Progress("compiling", unit="", hidden=not shown):
        program = function.lower(*arguments).compile()
    return program, time.perf_counter() - began


def milliseconds(run: Callable[[], Any], repeats: int) -> list[float]:
    """How long each of `repeats` runs takes until its results are there."""
    times = []
    for _ in range(WARM_UP + repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(1e3 * (time.perf_counter() - began))
    return times[WARM_UP:]


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """The median, the smallest and the largest of some measurements, rounded."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def peak_memory(program: Any) -> int:
    """Bytes that a device has needed at most, or where it does not count them, what the compiler has planned."""
    memory = program.memory_analysis()
    planned = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    live = jax.devices()[0].memory_stats() or {}
    return int(live.get("peak_bytes_in_use", planned - memory.alias_size_in_bytes))


def listed(found: dict[str, Any], *hidden: str) -> list[str]:
    """Findings for a person, a line each but for the `hidden` ones; large whole numbers in units of 1e9."""
    lines = []
    for key, value in found.items():
        if key in hidden or value is None:
            continue
        if isinstance(value, dict):
            value = f"median {value['median']:g}, {value['min']:g} to {value['max']:g}"
        elif isinstance(value, int) and abs(value) >= 1e6:
            value = f"{value / 1e9:,.3f} G"
        lines.append(f"{key.replace('_', ' '):<28}{value}")
    return lines
