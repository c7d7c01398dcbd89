"""docs/architecture.md's rule of who may import whom, and no module that imports itself by way of others."""

import ast
import graphlib
import re

from tests.conftest import ROOT

RULE = (ROOT / "docs" / "architecture.md").read_text().split("## Who may import whom")[1].split("\n## ")[0]
ROOMS = re.findall(r"^    (data_pipelines\S*|expressnet_jax\S*) ", RULE, re.MULTILINE)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("data_pipelines", "expressnet_jax")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name != "__init__.py" or path.stat().st_size
}


def _room(module: str) -> int | None:
    """The place in the list; the room with the longest name that fits. `expressnet_jax` itself may import anything."""
    known = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return ROOMS.index(max(known, key=len)) if known else None


def _imported(module: str) -> set[str]:
    """Modules and packages of ours that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{module}: a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        found |= {f"{name}.__init__" if f"{name}.__init__" in MODULES else name for name in names}
    return {name for name in found if name.split(".")[0] in ("data_pipelines", "expressnet_jax")} - {module}


IMPORTS = {module: _imported(module) for module in MODULES}


def test_rooms_import_only_from_those_above_them():
    assert len(ROOMS) > 20
    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if module != "expressnet_jax.__init__" and (_room(other) or 0) > (_room(module) or 0)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_has_its_room():
    assert [
        m for m in MODULES if _room(m) is None and m not in ("expressnet_jax.__init__", "expressnet_jax.__main__")
    ] == []


def test_no_module_imports_itself_by_way_of_others():
    graphlib.TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names the cycle
