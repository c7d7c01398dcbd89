"""Say what a training step will cost on a machine that need not be here.

example: expressnet plan --config=fer2013:paper --config.batch_size=256 --topology v5e:2x2 --plot scaling.png
"""

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from data_pipelines.common.errors import UsageError
from data_pipelines.common.files import check_file
from data_pipelines.common.text import say
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--config", required=True, help=common.CONFIG)
    machine = parser.add_mutually_exclusive_group(required=True)
    machine.add_argument("--topology", help="compile for a TPU such as v5e:16x16 or v5p:2x2x1 (needs libtpu, no TPU)")
    machine.add_argument(
        "--gpus", help="compile for GPUs such as h100:64 (needs JAX's CUDA plugin, no GPU; else predict)"
    )
    machine.add_argument("--cpus", type=int, help="compile for so many devices that share this computer's CPU")
    machine.add_argument(
        "--here", action="store_const", const=True, help="compile for this machine's own devices, and run the step too"
    )
    machine.add_argument(
        "--sweep",
        metavar="T,T,...",
        help="compile for several machines, such as v5e:2x2,v5e:4x4 or h100:1,h100:8: one line each",
    )
    parser.add_argument("--slices", type=int, default=1, help="of TPUs: so many slices, joined by DCN")
    parser.add_argument(
        "--fast", action="store_true", help="of TPUs: compile with the least effort, in a third to a sixth of the time"
    )
    parser.add_argument("--search", action="store_true", help="also find the largest batch that fits")
    parser.add_argument("--splits", action="store_true", help="also compare all splits into data and expert devices")
    parser.add_argument("--plot", type=common.path, metavar="FILE", help="also draw the scaling as a PNG")


def run(options: Namespace) -> common.Result:
    """Makes the plan that is asked for, and shows it."""
    kind = _checked(options)
    if kind != "here":
        with common.quiet():
            _before_jax(options.cpus)
    from expressnet_jax.config import files as config_files
    from expressnet_jax.plan import describe, machines, search, step_cost

    config = config_files.load(options.config, options.overrides)
    if options.fast:
        step_cost.with_least_effort()
    if kind == "sweep":
        with common.quiet():
            common.start_jax()
        shapes = options.sweep.split(",")
        rows, b = search.sweep(config, shapes, options.slices, say)
        common.show(options, describe.sweep(rows, b))
        found = {"kind": rows[0]["kind"], "batch_per_device": b, "sweep": rows}
        return (found, _interrupted()) if len(rows) < len(shapes) else found
    if kind == "here":
        common.start_jax()
        return _here(config, options)
    if kind == "topology":
        machine = machines.topology(options.topology, options.slices)
    else:
        machine = machines.gpus(options.gpus) if kind == "gpus" else machines.cpus(options.cpus)
    with common.quiet():
        common.start_jax()
    return _one(config, machine, options)


def _checked(options: Namespace) -> str:
    """What the plan is for: topology, gpus, cpus, here or sweep. Raises UsageError for options that do not fit it."""
    kind = next(name for name in ("topology", "gpus", "cpus", "here", "sweep") if getattr(options, name) is not None)
    if options.slices != 1 and kind not in ("topology", "sweep"):
        raise UsageError(f"--slices goes with --topology and --sweep, not with --{kind}")
    if options.fast and kind not in ("topology", "sweep"):
        raise UsageError(f"--fast goes with --topology and --sweep, not with --{kind}")
    if options.plot and kind not in ("topology", "gpus"):
        raise UsageError(f"--plot goes with --topology and --gpus, not with --{kind}")
    if options.search and kind in ("cpus", "here"):
        raise UsageError(f"--search needs the memory of a chip: it goes with --topology or --gpus, not with --{kind}")
    if options.splits and kind == "here":
        raise UsageError("--splits compares predictions: it goes with --topology, --gpus or --cpus, not with --here")
    if kind == "sweep" and not all(name.strip() for name in options.sweep.split(",")):
        raise UsageError(f"--sweep {options.sweep!r} lacks a topology; write v5e:2x2,v5e:4x4")
    if kind == "sweep" and (options.search or options.splits):
        raise UsageError("--search and --splits go with one machine, not with --sweep")
    if options.plot:
        check_file("--plot", options.plot)
    return kind


def _before_jax(cpus: int | None) -> None:
    """JAX must not look for a TPU that is not here, and learns the number of its CPU devices only once."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run on a TPU, so none has to be free
    # Without these libtpu looks for the chips of this machine, which are not asked for, and prints lines about them.
    os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    if cpus:
        flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
        os.environ["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={cpus}"])
    common.on_cpu()  # JAX may have been imported, and have read its environment, before


def _interrupted() -> int:
    say("expressnet: interrupted; what was found until then is above")
    return 130


def _here(config: Any, options: Namespace) -> common.Result:
    """Predicted, compiled and measured side by side, then the compiled plan."""
    import jax

    from expressnet_jax.bench import network
    from expressnet_jax.plan import describe, machines, step_cost

    machine = machines.here()
    expected = step_cost.make(config, machine, None)
    say(describe.first(expected))
    found = step_cost.compiled(config, machine, jax.devices())
    made = step_cost.of_program(config, machine, found)
    if isinstance(found, step_cost.Compiled):
        made |= {"measured": network.compiled_step(config, found.program), "kind": "compiled, and run"}
        common.show(options, describe.side_by_side(expected, made, made["measured"]))
    common.show(options, "\n" + describe.text(made))
    return made


def _one(config: Any, machine: Any, options: Namespace) -> common.Result:
    import dataclasses

    from expressnet_jax.figures import plots
    from expressnet_jax.parallel import mesh as meshes
    from expressnet_jax.plan import describe, search, step_cost

    if not options.splits:  # which tries meshes of its own
        meshes.sizes(config, machine.chips)
    devices = step_cost.devices(machine)
    found: dict[str, Any] = {}
    if options.splits:
        found["splits"] = search.splits(config, machine)
        along = {"data": -1, "expert": found["splits"]["best"]["expert"]}
        config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **along))
    if devices is not None:
        say(describe.first(step_cost.make(config, machine, None)))
    made = step_cost.make(config, machine, devices) | found
    common.show(options, describe.text(made))
    if options.splits:
        common.show(options, "\n" + describe.splits(found["splits"]) + "\nThe plan above is that of the best split.")
    if options.search:
        try:
            made["search"] = search.largest_batch(config, machine, devices, say)
        except KeyboardInterrupt:
            return made, _interrupted()
        common.show(options, "\n" + describe.search(made["search"]))
    if options.plot:
        plots.scaling_figure(made, options.plot)
        say(f"written to {options.plot}")
    return made
