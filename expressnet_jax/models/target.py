"""The kind of machine that programs are traced for: what is fast differs, what is computed does not."""

from __future__ import annotations

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
    """Makes `platform` another one than this process has, to compile for a machine that is not here."""
    token = _TARGET.set(target)
    yield
    _TARGET.reset(token)
