"""README.md of an artifact: what the model is, from facts of its run. What is not known is said to be unknown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from data_pipelines.common.text import counted, one_line

_NETWORKS = {"expressnet": "ExpressNet-MoE", "backbone": "its ResNet alone, with a linear head"}


def text(meta: Mapping[str, Any], sizes: Mapping[str, int], outputs: tuple[str, ...]) -> str:
    """The card. meta: config.json; sizes: bytes of each file; outputs: names of what the graphs return."""
    environment = jinja2.Environment(  # Markdown, not HTML: nothing is escaped
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"flat": _flat, "known": _known, "counted": counted}
    network = _NETWORKS[meta["config"]["model"]["network"]]
    return environment.get_template("model_card.md.j2").render(meta, sizes=sizes, outputs=outputs, network=network)


def _flat(value: Any) -> str:
    """One line that no table or heading breaks at."""
    return one_line(value).replace("|", "/")


def _known(value: Any) -> str:
    return "unknown" if value is None else _flat(value)
