"""Processes that watch each other: real ones, killed and stopped; only JAX is left out."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from expressnet_jax.parallel import peers
from tests.conftest import ROOT

NAMES = [f"process {i} on host-{i}" for i in range(3)]
PROGRAM = f"""
import sys, threading, time
from expressnet_jax.parallel import peers
peers.PATIENCE = 2.0
number = int(sys.argv[1])
if number == 0:
    listener = peers.Listener()
    print(listener.invitation, flush=True)
    found = listener.accept({NAMES!r})
else:
    found = peers.connect(input(), number, {NAMES[0]!r})
found.where = f"step {{100 - number}}, data"
print("up", flush=True)
for word in sys.stdin:
    if word == "where\\n":
        print(*found.whereabouts(), sep="; ", flush=True)
        continue
    found.bye()
    print("leaving", flush=True)
time.sleep(60)
"""


@pytest.fixture
def job():
    """Three processes that are connected."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    job = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(number)], cwd=ROOT, text=True, **pipes)
        for number in range(3)
    ]
    invitation = job[0].stdout.readline()
    for process in job[1:]:
        process.stdin.write(invitation)
        process.stdin.flush()
    assert [process.stdout.readline() for process in job] == ["up\n"] * 3
    yield job
    for process in job:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_others_end_with_75_and_name_the_one_that_is_gone(job, victim, how):
    job[victim].send_signal(how)
    began = time.monotonic()
    why = "its connection is closed" if how == signal.SIGKILL else "it has not been heard of for"
    for process in job[:victim] + job[victim + 1 :]:
        _, said = process.communicate(timeout=30)
        assert process.returncode == 75
        assert said.startswith(f"expressnet: {NAMES[victim]} is gone: {why}") and said.count("\n") == 1
    assert time.monotonic() - began < 20


def test_the_first_one_knows_where_the_others_are(job):
    told, deadline = "", time.monotonic() + 30
    while told.count("step") < 2 and time.monotonic() < deadline:
        job[0].stdin.write("where\n")
        job[0].stdin.flush()
        told = job[0].stdout.readline()
        time.sleep(0.1)
    assert sorted(told.strip().split("; ")) == [f"{NAMES[1]}: step 99, data", f"{NAMES[2]}: step 98, data"]


def test_a_job_that_is_suspended_as_a_whole_goes_on(job):
    for signal_, seconds in ((signal.SIGSTOP, 5), (signal.SIGCONT, 4)):  # twice their patience
        for process in job:
            process.send_signal(signal_)
        time.sleep(seconds)
    assert [process.poll() for process in job] == [None] * 3
    job[1].kill()
    assert [process.wait(30) for process in (job[0], job[2])] == [75, 75]


def test_nobody_minds_one_that_has_said_goodbye(job):
    job[1].stdin.write("goodbye\n")
    job[1].stdin.flush()
    assert job[1].stdout.readline() == "leaving\n"
    job[1].kill()
    time.sleep(4)  # twice their patience
    assert [process.poll() for process in (job[0], job[2])] == [None, None]
    job[2].kill()
    assert job[0].wait(30) == 75


def test_a_stranger_is_not_taken_for_a_process():
    listener = peers.Listener()
    _, port, *_ = listener.invitation.split()
    with socket.create_connection(("localhost", int(port))) as stranger:
        stranger.sendall(b"0" * 32 + b"      1")
        with pytest.raises(TimeoutError):
            listener.accept(NAMES[:2], seconds=1.0)
