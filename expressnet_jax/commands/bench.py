"""Measure speed here: a step, convolutions, the loader, inference, experts.

example: expressnet bench step --config=fer2013:paper --config.batch_size=8 --only backbone
"""

import shlex
from argparse import ArgumentParser, Namespace

from data_pipelines.common.errors import UsageError
from data_pipelines.common.text import say
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("what", choices=("step", "conv", "input", "infer", "moe"), help="what to measure")
    parser.add_argument("--config", required=True, help=common.CONFIG)
    parser.add_argument("--only", choices=("backbone",), help="step, infer: the ResNet and a linear head alone")
    parser.add_argument("--against", metavar="COMMAND", help="step, infer: a script with arguments, timed in turn too")
    parser.add_argument("--pairs", type=int, help="with --against: how often each of the two is measured (default 3)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each median, after two that do not count")
    parser.add_argument("--hosts", type=int, default=1, help="input: the number of hosts that share the batch")
    parser.add_argument("--host", type=int, default=0, help="input: which of them to be, counted from 0")
    parser.add_argument("--step_ms", type=float, help="input: simulate how long 1 to 256 hosts wait with such steps")
    parser.add_argument("--data_dir", type=common.local, help=common.DATA_DIR)


def run(options: Namespace) -> common.Result:
    """Measures, and shows the table."""
    from expressnet_jax.bench import input as loader
    from expressnet_jax.bench import network
    from expressnet_jax.config import files as config_files

    config = config_files.load(options.config, options.overrides)
    _check(options)
    common.start_jax()
    try:
        if options.against is not None and not shlex.split(options.against):
            raise ValueError("it names no command")
    except ValueError as error:
        raise UsageError(f"--against {options.against!r}: {error}") from None
    if options.what in ("conv", "moe"):
        found = (network.conv if options.what == "conv" else network.experts)(config, repeats=options.repeats)
    elif options.what == "input":
        found = loader.measure(
            config, data_dir=options.data_dir, host=options.host, hosts=options.hosts, step_ms=options.step_ms
        )
    else:
        pairs = 3 if options.pairs is None else options.pairs
        peer = None if options.against is None else network.Peer(options.against, pairs)
        found = network.measure(config, options.what, only=options.only or "", against=peer, repeats=options.repeats)
    common.show(options, (loader if options.what == "input" else network).describe(found))
    measured = len(found.get("rows", found.get("layers", ())))
    if measured < found.get("of", 0):
        say(f"expressnet: interrupted after {measured} of {found['of']}; what was measured until then is above")
        return found, 130
    return found


def _check(options: Namespace) -> None:
    if options.what in ("conv", "input", "moe") and (options.only or options.against):
        raise UsageError(f"--only and --against go with step and infer, not with {options.what}")
    if options.pairs is not None and options.against is None:
        raise UsageError("--pairs goes with --against COMMAND: without it there is nothing to measure in turn with")
    for name in ("repeats", "pairs"):
        if (given := getattr(options, name)) is not None and given < 1:
            raise UsageError(f"--{name}={given} must be at least 1")
    if options.what != "input" and (options.hosts, options.host, options.step_ms) != (1, 0, None):
        raise UsageError(f"--hosts, --host and --step_ms go with input, not with {options.what}")
