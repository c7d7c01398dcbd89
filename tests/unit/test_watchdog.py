"""A process that hangs is ended; one that is asked twice to stop ends at once: real processes, without a training."""

import json
import signal
import subprocess
import sys
import time

from tests.conftest import ROOT

HANGS = """
import multiprocessing, sys, threading, time
from pathlib import Path
from expressnet_jax.train.times import Times
from expressnet_jax.train.watchdog import Watchdog
def stand_still_for_ever():
    time.sleep(600)
if __name__ == "__main__":
    times = Times()
    child = multiprocessing.get_context("spawn").Process(target=stand_still_for_ever)
    with Watchdog(Path(sys.argv[1]), 4.0, times) as watchdog:
        watchdog.beat(7)
        times.switch("data")
        child.start()
        print(child.pid, flush=True)
        stand_still_for_ever()
"""
COMPILES = """
import sys, time
from pathlib import Path
from expressnet_jax.train.times import Times
from expressnet_jax.train.watchdog import Watchdog
times = Times()
with Watchdog(Path(sys.argv[1]), 1.5, times) as watchdog:
    watchdog.beat(0, compiling=True)
    times.switch("compilation")
    time.sleep(float(sys.argv[2]))
    watchdog.beat()
    times.switch("steps")
"""
WORKS = """
import sys, time
from pathlib import Path
from expressnet_jax.train.times import Times
from expressnet_jax.train.watchdog import Watchdog
with Watchdog(Path(sys.argv[1]), 3, Times()) as watchdog:
    print("up", flush=True)
    for step in range(8):
        watchdog.beat(step)
        end = time.process_time() + 1
        while time.process_time() < end:
            pass
"""
INSISTS = """
import threading, time
from expressnet_jax.train.signals import Signals
with Signals() as signals:
    print("up", flush=True)
    while not signals.received:
        time.sleep(0.05)
    print("asked once", flush=True)
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
"""


def test_a_hang_leaves_stacks_and_exits_with_76(tmp_path):
    program = tmp_path / "hangs.py"
    program.write_text(HANGS)
    begun = subprocess.Popen(
        [sys.executable, program, tmp_path],
        cwd=ROOT,
        env=None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child = begun.stdout.readline().strip()
    said = begun.communicate(timeout=120)[1]
    assert begun.returncode == 76, said
    assert "step 7 has not ended in 4 s (watchdog.seconds; the run was busy with: data)" in said.splitlines()[-1]
    stacks = (tmp_path / "stacks.0.txt").read_text()
    assert "stand_still_for_ever" in stacks and stacks.startswith("step 7, data, process 0 on ")
    assert f"child process {child} (python" in stacks
    heartbeat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert (heartbeat["step"], heartbeat["doing"], heartbeat["process"]) == (7, "data", begun.pid)
    assert heartbeat["times"]["data"] > 0
    deadline = time.monotonic() + 20
    while subprocess.run(["ps", "-p", child], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < deadline, "the child is still there"
        time.sleep(0.2)


def test_a_compilation_may_take_four_times_as_long(tmp_path):
    for seconds, code in ((3, 0), (60, 76)):
        command = [sys.executable, "-c", COMPILES, tmp_path, str(seconds)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert "step 0 has not ended in 6 s (watchdog.seconds; the run was busy with: compilation)" in done.stderr


def test_a_process_that_was_stopped_and_continued_has_not_hung(tmp_path):
    """Ctrl-Z and `fg`, or a cluster that suspends a job."""
    begun = subprocess.Popen(
        [sys.executable, "-c", WORKS, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert begun.stdout.readline() == "up\n"
    time.sleep(1.5)
    begun.send_signal(signal.SIGSTOP)
    time.sleep(7)
    begun.send_signal(signal.SIGCONT)
    said = begun.communicate(timeout=300)[1]
    assert begun.returncode == 0, said


def test_a_second_sigint_ends_a_process_that_waits_for_ever():
    begun = subprocess.Popen(
        [sys.executable, "-c", INSISTS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert begun.stdout.readline() == "up\n"
    begun.send_signal(signal.SIGINT)
    assert begun.stdout.readline() == "asked once\n"
    assert begun.poll() is None
    begun.send_signal(signal.SIGINT)
    assert begun.wait(60) == 130
    assert "a second SIGINT" in begun.stderr.read()
