"""Settings of this process, made before JAX looks for devices."""

from __future__ import annotations

import os
from pathlib import Path


def start_jax(*, distributed: bool = False) -> None:
    """Keeps compiled programs from one run to the next. `distributed`: joins the other processes of a job."""
    import jax

    if distributed:
        from expressnet_jax.parallel import distributed as processes

        processes.join()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expressnet_jax" / "xla"
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        # Read back from the cache, a CPU program has lost the order of its collectives: on a busy machine one device
        # waits in one, the others in the next, until XLA aborts (seen in 10 of 10 loaded runs; without, in 0 of 11).
        jax.config.update("jax_enable_compilation_cache", False)


def on_cpu() -> None:
    """Leaves accelerators alone: this process only reads and counts, or plans for a machine that is not here."""
    import jax

    jax.config.update("jax_platforms", "cpu")
