"""The frame of all pages: what templates print is escaped, rounded with its full value, or a dash."""

from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common import pages


def show(tmp_path: Path, template: str, **values: Any) -> str:
    (tmp_path / "one.j2").write_text(template)
    return pages.render(pages.environment(tmp_path).get_template("one.j2"), **values)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ x }}", "&lt;b&gt;\\x1b/a_b,c&#233;"),
        ("{{ x|text(6) }}", "&lt;b&gt;...,c&#233;"),
        ("{{ x|breakable }}", "&lt;b&gt;\\x1b/<wbr>a_<wbr>b,<wbr>c&#233;"),
        ("{{ gone.at.any.depth }} {{ null }} {{ nothing }} {{ ''|text }}", "- -  -"),
        ("{{ gone.depth|number('count') }} {{ x|number('count') }} {{ true|number('plain') }}", "- - -"),
        ("{{ 0.125|number('percent') }}", '<span data-value="0.125">12.50</span>'),
        ("{{ 1e-05|number('p') }}", '<span data-value="1e-05">&lt; 0.0001</span>'),
        ("{{ [1, 2000]|number('count') }}", '<span data-value="1">1</span> to <span data-value="2000">2,000</span>'),
        ("{{ [1, none]|number('count') }}", "-"),
        ("{{ 2|share }} {{ -1|share }} {{ x|share }}", "1.0 0.0 0.0"),
    ],
)
def test_what_templates_print(template: str, expected: str, tmp_path: Path) -> None:
    assert show(tmp_path, template, x="<b>\x1b/a_b,c\u00e9", null=None, nothing="") == expected


def test_forms_of_cells(tmp_path: Path) -> None:
    """A table's cells, in every form that is not a plain number."""
    cells = {
        "text": ("a_b", "a_<wbr>b"),
        "link": ({"id": "here", "name": "<a>"}, '<a href="#here">&lt;a&gt;</a>'),
        "spread": ({"mean": None, "std": 1.0}, "-"),
        "values": ([], "-"),
        "done": ({"done": None, "planned": 3}, '- of <span data-value="3">3</span>'),
        "comparable": (False, "not comparable"),
        "bar": (0.5, '<span data-value="0.5">50.00</span><span class="bar"><span style="width:50.0%"></span></span>'),
        "part": ({"count": 0}, '<span class="heat" style="--heat:0.000"><span data-value="0">0</span></span>'),
    }
    loop = "{% for form, (value, _) in cells.items() %}{{ html.show(value, form) }}\n{% endfor %}"
    template = f"{{% import 'macros.html.j2' as html %}}{loop}"
    assert show(tmp_path, template, cells=cells).splitlines() == [expected for _, expected in cells.values()]


def test_script_is_named_by_its_hash_or_not_there(tmp_path: Path) -> None:
    with_it = show(tmp_path, "{% extends 'base.html.j2' %}{% set scripted = true %}", title="<t>")
    assert with_it.count("<script>") == 1 and "script-src 'sha256-" in with_it.replace("&#39;", "'")
    without = show(tmp_path, "{% extends 'base.html.j2' %}", title="<t>")
    assert "<script>" not in without and "script-src" not in without and "<title>&lt;t&gt;</title>" in without
