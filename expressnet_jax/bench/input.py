"""`expressnet bench input`: the loader of one host, measured; and all hosts of a job, simulated from that.

Legend: S steps, H hosts, W threads of a host's loader, A batches that it is asked for ahead. Times in milliseconds.

A step begins when the device is free and every host has its part of the batch. The hosts ask for batch s at a_s, when
step s - 1 has ended; the loader was told of it at a_(s-A), the first A batches at the start. One of its W threads takes
it up, in order, when it is free, and on host h needs t_sh; r_sh is when that is done. Then

    w_s = max(0, max_h r_sh - a_s)             what all of them wait for the slowest
    a_(s+1) = a_s + w_s + the time of a step

The t_sh are drawn from times measured on this machine with W threads at work, each for itself: hosts are taken to be
alike, and each batch to be independent of the one before. What a shared file system, a neighbour on the machine or a
bad disk would do is not simulated; nor are the steps that XLA queues beyond the one that runs, which can only help.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data_pipelines import loader
from data_pipelines.common.tables import aligned
from expressnet_jax.bench import timer
from expressnet_jax.config import Config, ConfigError
from expressnet_jax.runs import data

_HOSTS = (1, 8, 64, 256)
_STEPS, _FIRST = 1000, 50  # steps simulated, and how many of them do not count, while the buffers settle
_TOLERATED = 0.02  # of the time, spent in waiting


def measure(
    config: Config, *, data_dir: str | None = None, host: int = 0, hosts: int = 1, step_ms: float | None = None,
    seconds: float = 10.0,
) -> dict[str, Any]:  # fmt: skip
    """Decoded and batched pictures a second of the loader alone, as host `host` of `hosts`; nothing goes to a device.

    With `step_ms`, also `forecast`'s account of many such hosts. Raises ConfigError for hosts that do not divide the
    batch, for a `step_ms` that is not above 0, and for one with worker processes.
    """
    if not 0 <= host < hosts:
        raise ConfigError(f"--host={host} is none of --hosts={hosts}, which are counted from 0")
    if config.batch_size % hosts:
        raise ConfigError(f"batch_size={config.batch_size} is not divisible by --hosts={hosts}")
    if step_ms is not None and not 0 < step_ms < float("inf"):
        raise ConfigError(f"--step_ms={step_ms:g} must be above 0")
    if step_ms is not None and config.data.workers:
        raise ConfigError(f"--step_ms simulates the loader's threads, not data.workers={config.data.workers} processes")
    opened = data.open_data(config, data_dir)
    steps = loader.training_steps(
        opened.train, config.batch_size, seed=config.seed, host=host, hosts=hosts, sampling=config.data.sampling,
        also=opened.also,
    )  # fmt: skip
    batches = loader.batches(steps, config.data.workers)
    for _ in range(timer.WARM_UP):
        shape = next(batches)["image"].shape
    found = {
        "data": opened.train.name, "picture": list(shape[1:]), "batch_size": config.batch_size,
        "host": f"{host} of {hosts}", "host_batch": config.batch_size // hosts, "workers": config.data.workers,
        **_rates(batches, seconds, alone=not config.data.workers),
    }  # fmt: skip
    if step_ms is None:
        return found
    del batches  # and its threads
    times = batch_times(steps, seconds)
    return found | forecast(times, step_ms, sorted({*_HOSTS, hosts}))


def _rates(batches: Any, seconds: float, *, alone: bool) -> dict[str, Any]:
    """Pictures a second: median and spread of five measurements; `alone`: no worker processes do the work."""
    rates, per_core = [], []
    for _ in range(5):
        began, busy, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds / 5:
            count += len(next(batches)["label"])
        rates.append(count / (time.perf_counter() - began))
        per_core.append(count / (time.process_time() - busy))
    speed = timer.spread(rates, 1)
    found = {"images_per_second": speed["median"], "images_per_second_spread": [speed["min"], speed["max"]]}
    return found | ({"images_per_core_second": timer.spread(per_core, 1)["median"]} if alone else {})


def batch_times(steps: Any, seconds: float) -> np.ndarray:
    """Milliseconds that each of `steps[0]`, `steps[1]`, ... takes, as many as fit into `seconds`, at least 20.

    As many threads as the loader has work at once, so that they slow each other down as they do there.
    """
    times: list[float] = []
    end = time.perf_counter() + seconds

    def work(first: int) -> None:
        step = first
        while time.perf_counter() < end or step < 20:
            began = time.perf_counter()
            steps[step]
            times.append(1e3 * (time.perf_counter() - began))
            step += loader.THREADS

    with ThreadPoolExecutor(loader.THREADS) as pool:
        list(pool.map(work, range(loader.THREADS)))
    return np.array(times)


def waits(times: np.ndarray, step_ms: float, *, threads: int = loader.THREADS, ahead: int = loader.AHEAD) -> np.ndarray:
    """What all hosts wait before each step, (S,), where host h takes `times[s, h]` for its part of batch s."""
    steps, hosts = times.shape
    free = np.zeros((hosts, threads))  # when each thread has done what it was given
    asked, waited = np.zeros(steps + 1), np.zeros(steps)
    for s in range(steps):
        first = free.argmin(1)
        began = np.maximum(free[np.arange(hosts), first], asked[max(s - ahead, 0)])
        ready = began + times[s]
        free[np.arange(hosts), first] = ready
        waited[s] = max(ready.max() - asked[s], 0)
        asked[s + 1] = asked[s] + waited[s] + step_ms
    return waited


def forecast(times: np.ndarray, step_ms: float, host_counts: list[int]) -> dict[str, Any]:
    """What hosts would wait whose batches take as long as these measured ones, drawn with replacement.

    Returns `batch_ms` and, in `forecast`, for each number of hosts the fraction of the time spent in waiting where a
    step takes `step_ms`, and the shortest step with which that stays under 2 %.
    """
    rng, rows = np.random.default_rng(0), []
    for hosts in host_counts:
        drawn = rng.choice(times, (_STEPS, hosts))
        rows.append({"hosts": hosts, "waiting": round(waiting(drawn, step_ms), 4), "step_ms": _shortest(drawn)})
    quantiles = dict(zip(("median", "p99", "max"), np.quantile(times, (0.5, 0.99, 1)).round(3).tolist(), strict=True))
    return {
        "batch_ms": {**quantiles, "measured": len(times)}, "simulated_step_ms": step_ms,
        "tolerated": _TOLERATED, "forecast": rows,
    }  # fmt: skip


def waiting(times: np.ndarray, step_ms: float) -> float:
    """The fraction of the time that is spent in waiting, after the first steps."""
    waited = waits(times, step_ms)[_FIRST:]
    return float(waited.sum() / (waited.sum() + step_ms * len(waited)))


def _shortest(times: np.ndarray) -> float:
    """The shortest step, to 1 %, with which waiting stays in bounds: by halving between none and no wait at all."""
    low, high = 0.0, float(times.max())  # A > 1: where a step takes as long as any batch, nobody waits
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if waiting(times, middle) < _TOLERATED else (middle, high)
    return round(high, 3)


def describe(found: dict[str, Any]) -> str:
    """The findings for a person."""
    lines = timer.listed(found, "forecast", "batch_ms", "simulated_step_ms", "tolerated")
    if "forecast" not in found:
        return "\n".join(lines)
    ms = found["batch_ms"]
    rows = [["hosts", "time waited", f"under {found['tolerated']:.0%} with steps from"]]
    rows += [[str(row["hosts"]), f"{row['waiting']:.2%}", f"{row['step_ms']:g} ms"] for row in found["forecast"]]
    lines += [
        f"{'batch ms':<28}median {ms['median']:g}, p99 {ms['p99']:g}, max {ms['max']:g} of {ms['measured']}",
        f"\nsimulated, not run: hosts that all load as this one, steps of {found['simulated_step_ms']:g} ms",
        *aligned(rows),
    ]
    return "\n".join(lines)
