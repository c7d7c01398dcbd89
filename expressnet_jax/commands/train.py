"""Train a network; the same command resumes an interrupted run.

example: expressnet train --config=fer2013_small --workdir runs/small --config.batch_size=64
"""

from argparse import ArgumentParser, Namespace

from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--config", required=True, help=common.CONFIG)
    parser.add_argument("--workdir", required=True, type=common.path, help="the folder of this run")
    parser.add_argument("--data_dir", type=common.local, help=common.DATA_DIR)
    parser.add_argument("--track", choices=("wandb", "mlflow"), help="where metrics go besides the folder of the run")
    parser.add_argument("--distributed", action="store_true", help=common.DISTRIBUTED)


def run(options: Namespace) -> common.Result:
    """Trains, and shows the summary of the run; of several processes only the first does."""
    import expressnet_jax
    from expressnet_jax.checkpoint import manager
    from expressnet_jax.config import files as config_files
    from expressnet_jax.parallel import distributed

    config = config_files.load(options.config, options.overrides)
    common.start_jax(distributed=options.distributed)
    manager.quiet()
    summary = expressnet_jax.train(config, options.workdir, data_dir=options.data_dir, track=options.track)
    if not distributed.is_first():
        return 0
    common.show(options, (options.workdir / "summary.txt").read_text())
    return summary
