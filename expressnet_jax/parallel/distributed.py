"""Several processes as one job: joining, agreeing on what they do, stopping at the same step, leaving.

JAX's own runtime finds the processes, `peers` notices when one is gone, and engines (Slurm, Kubernetes,
launch/local.sh) start them. A process that is alone goes through all of this without noticing.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines.common import text as texts
from data_pipelines.common.errors import Failure
from expressnet_jax.config import ConfigError
from expressnet_jax.parallel import peers
from expressnet_jax.parallel.ending import end_now

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_MESSAGE = 400  # characters that are shown of another process's error
_ROWS = 16  # of the table of processes

_peers: peers.Peers | None = None


class PeerError(Failure):
    """Another process of the job could not go on; the message is its own, with its name."""


def join() -> None:
    """Joins the other processes of this job. To be called before anything asks JAX for a device.

    Where they are is read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else found by JAX,
    which knows Slurm, TPU pods and Open MPI. Raises ConfigError where nothing is found, or nobody answers.
    """
    found = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    missing = [name for name in _VARIABLES if name not in found]
    if found and missing:
        raise ConfigError(f"--distributed: {', '.join(found)} set, but not {', '.join(missing)}")
    # Gloo, in C++, writes about its connections to standard output, which is for results: only Python keeps it.
    sys.stdout = os.fdopen(os.dup(1), "w", errors="backslashreplace")
    os.dup2(2, 1)
    try:
        if found:
            address, count, number = found.values()
            # Otherwise JAX would also ask Slurm or the pod's engine which devices there are.
            jax.distributed.initialize(address, int(count), int(number), cluster_detection_method="deactivate")
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        ways = f"start it by srun, on a TPU pod, by launch/local.sh, or set {', '.join(_VARIABLES)}"
        raise ConfigError(f"--distributed: no job to join ({texts.one_line(error)[:200]}); {ways}") from None


def meet() -> None:
    """Connects the processes of a job, so that each learns within seconds of one that is gone; see `peers`.

    To be called by all of them, once JAX is set up. Where not all can be reached, only JAX's own, slower notice is
    left, and the first process says so.
    """
    global _peers
    if not several():
        return
    names = [f"process {i} on {host}" for i, host in enumerate(gathered(socket.gethostname()))]
    listener = peers.Listener() if is_first() else None
    invitation = gathered(listener.invitation if listener else "")[0]
    failure = ""
    try:
        _peers = listener.accept(names) if listener else peers.connect(invitation, jax.process_index(), names[0])
    except OSError as error:
        failure = texts.reason(error)
    if failures := [f"{name}: {text}" for name, text in zip(names, gathered(failure), strict=True) if text]:
        say(f"note: not all processes can be reached ({failures[0]}); one that dies is noticed later")
        leave_peers()


def leave_peers() -> None:
    """From here on nobody minds if this process ends: the others know why, or do the same."""
    if _peers is not None:
        _peers.bye()


def tell_where(text: str) -> None:
    """Lets the first process know where this one is, for the day when all wait for one."""
    if _peers is not None:
        _peers.where = text


def whereabouts() -> list[str]:
    """A line for each other process, where it was a few seconds ago; of those that are not the first, for that one."""
    return _peers.whereabouts() if _peers is not None else []


def several() -> bool:
    """Whether this process is one of several."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that prints, and writes all files but checkpoints."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Text for the user, from the first process alone; see `text.say`."""
    if is_first():
        texts.say(text)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Waits at the end for all processes, and raises in each of them if the body has failed in one.

    The one that failed raises its own error, the others PeerError with its message. So a mistake on one host of many
    ends the job with one line that names the host, where the others would otherwise wait for it.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    if several():
        text = "" if error is None else texts.one_line(f"{type(error).__name__}: {error}")
        first = next((line for line in _told(text) if line), "")
        if first:
            leave_peers()
        if first and error is None:
            raise PeerError(first)
    if error is not None:
        raise error


def _told(text: str) -> list[str]:
    """Everybody's text, in the order of the processes, each with its sender where it is not empty."""
    return gathered(f"process {jax.process_index()} on {socket.gethostname()}: {text}"[:_MESSAGE] if text else "")


def gathered(text: str) -> list[str]:
    """Everybody's text, in the order of the processes, which all have to ask."""
    if not several():
        return [text]
    content = text.encode()
    longest = int(np.max(multihost_utils.process_allgather(np.array(len(content)))))
    lines = multihost_utils.process_allgather(np.frombuffer(content.ljust(longest + 1, b"\0"), np.uint8))
    return [bytes(line).rstrip(b"\0").decode() for line in np.asarray(lines)]


def agree(what: str, here: Mapping[str, Any]) -> None:
    """Raises ConfigError, in all processes, where one has other values than the first one; it and they are named."""
    told = [json.loads(text) for text in gathered(json.dumps(here))]
    hosts = gathered(socket.gethostname())
    for number, one in enumerate(told):
        keys = [key for key in told[0] | one if told[0].get(key) != one.get(key)]
        if keys:
            leave_peers()
            values = (f"{key} ({one.get(key)}, process 0 has {told[0].get(key)})" for key in keys)
            raise ConfigError(
                f"process {number} on {hosts[number]} has another {what} than process 0: "
                f"{texts.some(list(values), 3)}; start all with the same command, code and data"
            )


def lost(error: Exception) -> bool:
    """Whether an error says that another process no longer answers."""
    reasons = ("Gloo", "NCCL", "UNAVAILABLE", "Connection", "barrier")
    kinds = (jax.errors.JaxRuntimeError, TimeoutError)
    return isinstance(error, kinds) and any(text in str(error) for text in reasons) and several()


def barrier(name: str) -> None:
    """Returns when every process has come here; `name` is the same in all of them."""
    if several():
        multihost_utils.sync_global_devices(name)


def stop_agreed(number: int) -> int:
    """SIGTERM where all processes are to stop, once one of them has received it; else 0.

    Every process has to ask once before each step, with how often it has asked. JAX takes the signal and settles on a
    number that none has come to. Not the step: one that a run resumes at is beyond what JAX settles on before the first
    question (findings/jax_preemption_in_start_up_is_lost.sh), and rolling back repeats steps.
    """
    return int(signal.SIGTERM) if multihost_utils.reached_preemption_sync_point(number) else 0


def all_agree(here: bool) -> bool:
    """Whether something is true in every process. All have to ask."""
    return bool(np.all(multihost_utils.process_allgather(np.array(here)))) if several() else here


def table() -> list[str]:
    """Which process is where and has which devices: a header and a row each, the first ones of many."""
    local = jax.local_devices()
    rows = _told(f"{len(local)} x {local[0].device_kind}")
    more = [f"... and {len(rows) - _ROWS} more"] if len(rows) > _ROWS else []
    return [f"{len(rows)} processes, {jax.device_count()} devices in all", *rows[:_ROWS], *more]


def code_digest() -> str:
    """Of this project's Python files, where this process has them from."""
    package = Path(__file__).resolve().parents[1]
    paths = sorted(path for room in (package, package.with_name("data_pipelines")) for path in room.rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def find_out_who_is_lost() -> None:
    """Ends this process, saying which other one is gone; or returns after a while, not knowing."""
    if _peers is not None:
        _peers.wait_for_word()


def leave(code: int, *, together: bool) -> None:
    """Before a process ends. One that ends alone does so at once: on the usual way out it would wait for the others."""
    if jax.distributed.is_initialized() and several():
        if together:
            leave_peers()
        else:
            end_now(code)
