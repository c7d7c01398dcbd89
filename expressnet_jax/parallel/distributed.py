"""Several processes as one job: joining, agreeing on what went wrong, stopping at the same step, leaving.

JAX's own runtime finds the processes and notices when one dies; engines (Slurm, Kubernetes, launch/local.sh) start
them. A process that is alone goes through all of this without noticing.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines.common import text as texts
from data_pipelines.common.errors import Failure
from expressnet_jax.config import ConfigError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_MESSAGE = 400  # bytes that are shown of another process's error
_ROWS = 16  # of the table of processes


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
    sys.stdout = os.fdopen(os.dup(1), "w")
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
        if first and error is None:
            raise PeerError(first)
    if error is not None:
        raise error


def _told(text: str) -> list[str]:
    """Everybody's text, in the order of the processes, each with its sender where it is not empty."""
    said = f"process {jax.process_index()} on {socket.gethostname()}: {text}".encode()[:_MESSAGE] if text else b""
    lines = multihost_utils.process_allgather(np.frombuffer(said.ljust(_MESSAGE, b"\0"), np.uint8))
    return [bytes(line).rstrip(b"\0").decode(errors="replace") for line in lines]


def lost(error: Exception) -> bool:
    """Whether an error says that another process no longer answers."""
    reasons = ("Gloo", "NCCL", "UNAVAILABLE", "Connection", "barrier")
    kinds = (jax.errors.JaxRuntimeError, TimeoutError)
    return several() and isinstance(error, kinds) and any(text in str(error) for text in reasons)


def barrier(name: str) -> None:
    """Returns when every process has come here; `name` is the same in all of them."""
    if several():
        multihost_utils.sync_global_devices(name)


def stop_agreed(step: int) -> int:
    """SIGTERM at the step before which all processes are to stop, once one of them has received it; else 0.

    Every process has to ask once before each step. JAX takes the signal and settles on a step that none has begun.
    """
    return int(signal.SIGTERM) if multihost_utils.reached_preemption_sync_point(step) else 0


def all_agree(here: bool) -> bool:
    """Whether something is true in every process. All have to ask."""
    return bool(np.all(multihost_utils.process_allgather(np.array(here)))) if several() else here


def table() -> list[str]:
    """Which process is where and has which devices: a header and a row each, the first ones of many."""
    local = jax.local_devices()
    rows = _told(f"{len(local)} x {local[0].device_kind}")
    more = [f"... and {len(rows) - _ROWS} more"] if len(rows) > _ROWS else []
    return [f"{len(rows)} processes, {jax.device_count()} devices in all", *rows[:_ROWS], *more]


def leave(code: int) -> None:
    """Ends a process that has failed at once: on the usual way out it would wait for the others, and they for it."""
    if jax.distributed.is_initialized() and several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
