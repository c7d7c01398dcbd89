"""The new user's way, from a Parquet file to graphs that answer, with a pipe and no terminal at every command."""

import subprocess
import sys
from pathlib import Path

from expressnet_jax import cli
from tests.conftest import ROOT, environment


def test_every_command_of_the_way_leaves_its_result_on_standard_output(tmp_path):
    given = environment()
    given["PATH"] = f"{Path(sys.executable).parent}:{given['PATH']}"
    script = ROOT / "tests" / "end_to_end" / "new_user.sh"
    done = subprocess.run(["bash", script, tmp_path], env=given, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    said = [line.split("expressnet ", 1)[1] for line in done.stdout.splitlines() if "  expressnet " in line]
    commands = {" ".join(words.split()[: 1 + words.startswith("data ")]) for words in said}
    assert commands == {
        name.replace("_", " ") for name in (*cli._COMMANDS, *(f"data_{n}" for n in ("prepare", "audit")))
    }
    assert done.stdout.rstrip().endswith("2 graphs answered without this package")
    for page in ("audit.html", "run.html", "study.html"):
        assert (tmp_path / page).stat().st_size > 10_000
