"""The scaling of a plan as a picture: the bound on images/s against chips."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from expressnet_jax.figures.evaluation import BLUE, GREY, VERMILLION


def scaling(plan: dict[str, Any], path: Path) -> None:
    """Writes a PNG: both bounds (communication hidden, or not at all) and the ideal, on logarithmic axes."""
    inside = plan["scaling"]
    rows = [*inside, *(row for row in plan.get("several_slices", ()) if row["chips"] > inside[-1]["chips"])]
    chips = [row["chips"] for row in rows]
    hidden, open_ = ([row["images_per_second"][key] for row in rows] for key in ("overlapped", "not_overlapped"))
    figure = Figure(figsize=(7.5, 4.8), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    axes = figure.subplots()
    ideal = [inside[0]["images_per_second"]["overlapped"] * n / chips[0] for n in chips]
    axes.plot(chips, ideal, color=GREY, linestyle=":", linewidth=1.4, label="ideal")
    axes.plot(chips, hidden, color=BLUE, marker="o", markersize=4, label="communication hidden")
    axes.plot(chips, open_, color=VERMILLION, marker="s", markersize=4, label="communication not hidden")
    axes.fill_between(chips, open_, hidden, color=BLUE, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.set_xticks(chips, [f"{n:,}" for n in chips], rotation=45 if len(chips) > 9 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(LogLocator(10, subs=(2, 5)))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for row, before in zip(rows[1:], rows, strict=False):
        if row["slices"] > 1 and before["slices"] == 1:  # where the slower network begins
            axes.axvline((row["chips"] * before["chips"]) ** 0.5, color=GREY, linewidth=0.8)
            label = "  several slices" if plan["machine"]["platform"] == "tpu" else "  several hosts"
            axes.annotate(label, ((row["chips"] * before["chips"]) ** 0.5, axes.get_ylim()[0]), fontsize=8, va="bottom")
    config = plan["config"]
    axes.set_title(
        f"{plan['machine']['name']}: a bound on images/s, {config['batch_per_device']} pictures a chip, not measured",
        fontsize=10, fontweight="bold", loc="left",
    )  # fmt: skip
    axes.set_xlabel("chips")
    axes.set_ylabel("images/s at most")
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    FigureCanvasAgg(figure)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
