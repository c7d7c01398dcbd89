"""Text of many lines, for terminals and text files, from templates: nothing is escaped, what is missing is an error."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from data_pipelines.common import tables, text


def filled(module: str, name: str, **values: Any) -> str:
    """The text of the template `name` in the folder templates/ beside the file `module`, with these values.

    Raises jinja2.UndefinedError where the template asks for others.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(module).parent / "templates"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "aligned": _aligned, "counted": text.counted, "flat": _flat, "form": format, "interval": _interval,
        "percent": percent, "settings": _settings, "tuple": tuple,
    }  # fmt: skip
    return made.get_template(name).render(values).rstrip("\n")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(line.rstrip() for line in tables.aligned(rows))


def _flat(value: Any) -> str:
    """One line that no table or heading of Markdown breaks at; "unknown" for None."""
    return "unknown" if value is None else text.one_line(value).replace("|", "/")


def _interval(bounds: Sequence[float]) -> str:
    """(0.5, 0.6) as "(95 % interval 50.00 % to 60.00 %)"."""
    return "(95 % interval {} to {})".format(*map(percent, bounds))


def _settings(found: Mapping[str, Any]) -> str:
    """{"mean": 0.0616666, "name": "adam"} as "mean 0.06167, name adam"."""
    return ", ".join(f"{k.replace('_', ' ')} {f'{v:.4g}' if isinstance(v, float) else v}" for k, v in found.items())


def percent(fraction: float | None, digits: int = 2) -> str:
    """0.5 as "50.00 %", and None as "-"."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"
