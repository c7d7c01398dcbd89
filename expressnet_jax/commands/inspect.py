"""Show the size and cost of a network, or what a run or an artifact holds.

example: expressnet inspect --config=fer2013:paper --config.moe.num_experts=8
"""

import functools
from argparse import ArgumentParser, Namespace

from data_pipelines.common.errors import UsageError
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    paths = "a run, RUN/checkpoints/STEP or an artifact; two are compared"
    parser.add_argument("path", nargs="*", type=common.path, help=paths)
    parser.add_argument("--config", help=common.CONFIG)
    parser.add_argument("--selfcheck", action="store_true", help="with --config: check each way to the experts here")


def run(options: Namespace) -> common.Result:
    """Describes a config's network, one folder, or two and their difference."""
    from expressnet_jax.config import files as config_files
    from expressnet_jax.export import inspection
    from expressnet_jax.models import cost

    _check(options)
    config = config_files.load(options.config, options.overrides) if options.config is not None else None
    common.start_jax()
    if config is not None and options.selfcheck:
        return inspection.selfcheck(config, functools.partial(common.show, options))
    if config is not None:
        found = cost.of_config(config)
        common.show(options, inspection.describe(found))
        return found
    models = [inspection.of_path(path) for path in options.path]
    first, *others = (model.facts for model in models)
    if not others:
        common.show(options, inspection.describe(first))
        return first
    difference = inspection.compare(*models)
    common.show(options, inspection.describe_both(first, others[0], difference))
    return {"first": first, "second": others[0], "difference": difference}


def _check(options: Namespace) -> None:
    if bool(options.path) == (options.config is not None) or len(options.path) > 2:
        raise UsageError("give one or two folders (run, checkpoint, artifact), or --config")
    if options.path and options.overrides:
        raise UsageError("--config.KEY=VALUE goes with --config, not with the folder of a run")
    if options.path and options.selfcheck:
        raise UsageError("--selfcheck goes with --config, not with the folder of a run")
