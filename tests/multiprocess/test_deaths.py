"""One of two processes of a run is killed or stopped at a chosen place: the other ends by itself, and says why.

`python -m pytest --long -s tests/multiprocess/test_deaths.py` tries every combination, and prints the table of
docs/resume.md.
"""

import itertools
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import TINY, environment
from tests.multiprocess.dies import PLACES

CASES = list(itertools.product(PLACES, (0, 1), (signal.SIGKILL, signal.SIGSTOP)))
SHORT = [("step", 0, signal.SIGKILL), ("save", 1, signal.SIGSTOP)]


def run_of_two(place, victim, tmp_path, data_dir):
    """Both processes, once the victim stands at its place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["train", f"--config={TINY}", "--config.total=8steps", "--config.eval_every=4steps", "--workdir",
               tmp_path / "run", "--data_dir", data_dir, "--distributed"]  # fmt: skip
    both, mark = [], tmp_path / "mark"
    for number in range(2):
        own = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number),
               "DIES_IN": place, "DIES": str(victim), "MARK": str(mark)}  # fmt: skip
        words = [sys.executable, "-m", "tests.multiprocess.dies", *map(str, command)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        both.append(subprocess.Popen(words, env=environment() | own, **pipes))
    deadline = time.monotonic() + 300
    while not mark.exists():
        assert all(process.poll() is None for process in both) and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)  # the other one comes to where it waits
    return both


@pytest.mark.parametrize(
    ("place", "victim", "how"), [pytest.param(*c, marks=() if c in SHORT else pytest.mark.long) for c in CASES]
)
def test_the_other_process_ends_within_30_seconds_with_75_and_names_it(place, victim, how, tmp_path, data_dir):
    both = run_of_two(place, victim, tmp_path, data_dir)
    try:
        began = time.monotonic()
        both[victim].send_signal(how)
        said = both[1 - victim].communicate(timeout=120)[1]
        seconds = time.monotonic() - began
    finally:
        for process in both:
            process.kill()
            process.communicate()
    named = f"expressnet: process {victim} on {socket.gethostname()} is gone: "
    (line,) = [line for line in said.splitlines() if line.startswith(named)]
    print(f"| {place} | {victim} | {how.name} | {seconds:.1f} s | {both[1 - victim].returncode} | {line} |")
    assert both[1 - victim].returncode == 75 and "Traceback" not in said
    assert seconds < 30
