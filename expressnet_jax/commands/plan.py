"""The command `expressnet plan`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[[str], None]


def add(commands: Any, command: Any, config: str) -> None:
    """Adds the command to the parser's."""
    plan = command(commands, "plan", "Say what a training step will cost on a machine that need not be here.")
    plan.add_argument("--config", required=True, help=config)
    plan.add_argument("--topology", help="compile for a TPU such as v5e:16x16 or v5p:2x2x1 (needs libtpu, no TPU)")
    plan.add_argument("--slices", type=int, default=1, help="with --topology, --sweep: so many of it, joined by DCN")
    plan.add_argument("--gpus", help="predict for GPUs such as h100:64: from shapes alone, nothing is compiled")
    plan.add_argument("--cpus", type=int, help="compile for so many devices that share this computer's CPU")
    plan.add_argument("--sweep", metavar="T,T,...", help="compile for several topologies: one line each")
    plan.add_argument("--search", action="store_true", help="also find the largest batch that fits")
    plan.add_argument("--splits", action="store_true", help="also compare all splits into data and expert devices")
    plan.add_argument("--plot", type=Path, metavar="FILE", help="also draw the scaling over chips, as a PNG")


def run(options: argparse.Namespace, overrides: list[tuple[str, str]], start_jax: Callable[[], None], say: Say) -> Any:
    """Makes the plan that is asked for, says it, and returns it ready for JSON."""
    _before_jax(options.cpus)
    from expressnet_jax.config import ConfigError
    from expressnet_jax.config import files as config_files
    from expressnet_jax.plan import machines

    asked = [name for name in ("topology", "gpus", "cpus", "sweep") if getattr(options, name) is not None]
    if len(asked) != 1:
        given = " and ".join(f"--{name}" for name in asked) or "none of them"
        raise ConfigError(f"give one of --topology, --gpus, --cpus and --sweep, not {given}")
    if options.slices != 1 and asked[0] not in ("topology", "sweep"):
        raise ConfigError(f"--slices goes with --topology and --sweep, not with --{asked[0]}")
    if options.plot and asked[0] not in ("topology", "gpus"):
        raise ConfigError(f"--plot goes with --topology and --gpus, not with --{asked[0]}")
    if options.sweep is not None and (options.search or options.splits):
        raise ConfigError("--search and --splits go with one machine, not with --sweep")
    if options.plot and not options.plot.absolute().parent.is_dir():  # said before the work, not after it
        raise ConfigError(f"--plot {options.plot}: there is no folder {options.plot.absolute().parent}")
    config = config_files.load(options.config, overrides)
    if options.sweep is not None:
        return _sweep(config, options, start_jax, say)
    if options.topology is not None:
        machine = machines.topology(options.topology, options.slices)
    else:
        machine = machines.gpus(options.gpus) if options.gpus is not None else machines.cpus(options.cpus)
    start_jax()
    return _one(config, machine, options, say)


def _before_jax(cpus: int | None) -> None:
    """JAX must not look for a TPU that is not here, and learns the number of its CPU devices only once."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run on a TPU, so none has to be free
    # What libtpu would else look for, and print lines about: the chips of this machine, which are not asked for.
    os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    if cpus:
        flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
        os.environ["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={cpus}"])
    import jax

    jax.config.update("jax_platforms", "cpu")  # it may have been imported, and have read its environment, before


def _sweep(config: Any, options: argparse.Namespace, start_jax: Callable[[], None], say: Say) -> dict[str, Any]:
    from expressnet_jax.plan import describe, search

    start_jax()
    rows, b = search.sweep(config, options.sweep.split(","), options.slices, say)
    say(describe.sweep(rows, b))
    return {"kind": "compiled, not run", "batch_per_device": b, "sweep": rows}


def _one(config: Any, machine: Any, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    import dataclasses

    from expressnet_jax.config import ConfigError
    from expressnet_jax.figures import curves
    from expressnet_jax.plan import compiled, describe, search
    from expressnet_jax.plan import step_cost as plan

    if options.search and machine.chip is None:
        raise ConfigError("--search needs the memory of a chip: it goes with --topology or --gpus, not with --cpus")
    devices = None if machine.platform == "gpu" else compiled.devices(machine)
    found: dict[str, Any] = {}
    if options.splits:
        found["splits"] = search.splits(config, machine)
        along = {"data": -1, "expert": found["splits"]["best"]["expert"]}
        config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **along))
    made = plan.make(config, machine, devices) | found
    say(describe.text(made))
    if options.splits:
        say("\n" + describe.splits(found["splits"]) + "\nThe plan above is that of the best split.")
    if options.search:
        made["search"] = search.largest_batch(config, machine, devices, say)
        say("\n" + describe.search(made["search"]))
    if options.plot:
        curves.scaling_figure(made, options.plot)
        say(f"written to {options.plot}")
    return made
