"""What the documents name is there: files, modules, and commands with their options and settings."""

import re
import shlex
from pathlib import Path

import pytest

from data_pipelines.common.errors import UsageError
from expressnet_jax import cli
from expressnet_jax.ablation import sweep
from expressnet_jax.commands import common
from expressnet_jax.config import files as config_files
from tests.conftest import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("expressnet_jax", "data_pipelines", "tests", "configs", "launch", "docs")
SOURCES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".sh", ".sbatch", ".yaml") or path.name.startswith("Dockerfile")
]
FILES = [f"/{path.relative_to(ROOT).as_posix()}" for path in [*DOCUMENTS, *SOURCES]]
OTHERS = {"pytorch_expressnet.py"}  # not part of the repository, and said to be
#: What stands for a value that readers have to put in.
PLACEHOLDERS = {"NAME": "fer2013", "DETECTOR": "haar", "DIR": "x", "N": "2"}


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=_id)
def test_links_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", [*DOCUMENTS, *SOURCES], ids=_id)
def test_named_files_and_modules_are_there(path: Path) -> None:
    text = path.read_text().replace("--", " ")
    names = re.findall(rf"(?<![\w/.*-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", text)
    missing = [name for name in names if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()]
    modules = re.findall(r"(?<![\w/.])(?:expressnet_jax|data_pipelines)(?:\.[a-zA-Z]\w*)+", text)
    missing += [name for name in modules if not _known(name)]
    if path in DOCUMENTS:  # short names too
        names = re.findall(r"(?<![\w/.*-])\w[\w/-]*\.(?:py|sh|md|yaml|sbatch)\b", text)
        missing += [name for name in names if name not in OTHERS and not any(f.endswith(f"/{name}") for f in FILES)]
    assert missing == []


def _known(name: str) -> bool:
    """Whether a dotted name is a package, a module, or what one of them holds."""
    first, *parts = name.split(".")
    at = ROOT / first
    for part in parts:
        if not (at / part).is_dir() and not (at / f"{part}.py").is_file():
            module = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
            return re.search(rf"\b{part}\b", module.read_text()) is not None
        at /= part
    return True


def _commands() -> list[tuple[str, str, bool]]:
    """(document, command, whether it is a whole one and no mention within a sentence)."""
    names = "train|evaluate|ablate|report|inspect|plan|export|predict|bench|data"
    started = "expressnet |.* -- (?=train )|sbatch .*?(?=train )"  # by itself or by a script
    found = []
    for path in [*DOCUMENTS, *sorted((ROOT / "configs").rglob("*.py"))]:
        text = re.sub(r"\\\n\s*", "", path.read_text())
        found += [(_id(path), one, True) for one in re.findall(rf"(?m)^ {{4,}}(?:{started})((?:{names}) .*)", text)]
        found += [(_id(path), one, False) for one in re.findall(rf"`expressnet ((?:{names})\s[^`]*)`", text)]
    return found


@pytest.mark.parametrize(("document", "command", "whole"), _commands())
def test_commands_are_taken(document: str, command: str, whole: bool) -> None:
    whole = whole and "..." not in command  # and so on, as in a command before it
    text = re.sub(r"\s+#.*|\s{4,}.*|[][]|\.\.\.|\$words;.*", " ", command)  # remarks beside it, [what may be left out]
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(text)]
    rest, overrides = common.split_overrides(words)
    try:
        options = cli.parser().parse_args(rest)
    except UsageError as error:
        unfinished = ("arguments are required", "expected one argument")  # nothing else is wrong with a mention
        assert not whole and any(words in str(error) for words in unfinished), error
        return
    if getattr(options, "config", None):
        config_files.load(options.config, overrides)
    if getattr(options, "study", None):
        study = sweep.ready_made(options.study)
        config_files.load(options.config or study["config"], overrides)


def test_the_commands_were_found() -> None:
    commands = _commands()
    assert len(commands) > 90 and {command.split()[0] for _, command, _ in commands} == {
        "train", "evaluate", "ablate", "report", "inspect", "plan", "export", "predict", "bench", "data",
    }  # fmt: skip
