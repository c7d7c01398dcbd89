"""What the routers do, from the sums of an interval: always recorded, with a warning where an expert starves."""

from __future__ import annotations

from typing import Any

import numpy as np

#: An expert that gets less than this part of an even share of the selections starves: it hardly learns any more.
STARVING = 0.1


def statistics(sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """The record of every routed layer in the sums of `step.train_step`.

    `load` and `importance` are each expert's fraction of the selections and of the probability, `max_load` and
    `min_load` the extremes of the former, `dead` the number of experts that nobody selected in the whole interval,
    `entropy` a mean in nats, `dropped` a fraction of the pairs, `classes` the selections by expert and class.
    """
    found: dict[str, Any] = {}
    count = max(float(sums["count"]), 1.0)
    for layer in (key.removesuffix("/load") for key in sums if key.endswith("/load")):
        load, importance = sums[f"{layer}/load"], sums[f"{layer}/importance"]
        selections = max(float(load.sum()), 1.0)
        each = {
            "load": np.round(load / selections, 6).tolist(),
            "importance": np.round(importance / max(float(importance.sum()), 1e-9), 6).tolist(),
            "max_load": float(load.max()) / selections,
            "min_load": float(load.min()) / selections,
            "dead": int((load == 0).sum()),
            "entropy": float(sums[f"{layer}/entropy"]) / count,
            "dropped": float(sums[f"{layer}/dropped"]) / selections,
            "classes": sums[f"{layer}/classes"].astype(int).tolist(),
        }
        found |= {f"{layer}/{name}": value for name, value in each.items()}
    return found


def starving(record: dict[str, Any]) -> dict[str, list[int]]:
    """The experts of each layer that starved in the interval of a record."""
    loads = {key.removesuffix("/load"): np.asarray(value) for key, value in record.items() if key.endswith("/load")}
    return {layer: np.flatnonzero(load < STARVING / load.size).tolist() for layer, load in loads.items()}


def warning(record: dict[str, Any], before: dict[str, list[int]]) -> str:
    """One line where other experts starve than `before`, or nothing."""
    news = []
    for layer, experts in starving(record).items():
        if experts and experts != before.get(layer, []):
            load = record[f"{layer}/load"]
            shares = ", ".join(f"expert {e} got {100 * load[e]:.2f} %" for e in experts)
            news.append(f"{layer}: {shares} of the selections (an even share is {100 / len(load):.2f} %)")
    if not news:
        return ""
    way_out = "moe.balance_loss=0.05 or moe.balance_bias=0.02 may spread them (docs/moe.md)"
    return f"warning: starving experts at step {record['step']}: {'; '.join(news)}; {way_out}"
