"""The kind of machine that programs are traced for: it decides what is fast, not what is computed."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str] = ContextVar("target", default="")


def platform() -> str:
    """Where programs traced now will run: "cpu", "gpu" or "tpu"."""
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(target: str) -> Iterator[None]:
    """Inside of it `platform` is `target` instead of this process's own, to compile for a machine that is not here."""
    token = _TARGET.set(target)
    try:
        yield
    finally:
        _TARGET.reset(token)
