"""Evaluate the best checkpoint of a run.

example: expressnet evaluate --workdir runs/small --data fer2013 --split public_test
"""

from argparse import ArgumentParser, Namespace

from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--workdir", required=True, type=common.path, help="the folder of a run")
    parser.add_argument("--data", help="another prepared data set; classes are matched by name")
    parser.add_argument("--split", help="default: the test split that the run's config names")
    parser.add_argument("--robustness", action="store_true", help="also under pose, occlusion, light, blur ...")
    parser.add_argument("--saliency", action="store_true", help="also what each branch of the network looks at")
    parser.add_argument("--data_dir", type=common.local, help=common.DATA_DIR)
    parser.add_argument("--distributed", action="store_true", help=common.DISTRIBUTED)


def run(options: Namespace) -> common.Result:
    """Evaluates, and shows the table of results; of several processes only the first does."""
    from expressnet_jax.evaluation import of_run
    from expressnet_jax.parallel import distributed

    common.start_jax(distributed=options.distributed)
    summary, text = of_run.evaluate_run(
        options.workdir, data=options.data, split=options.split, data_dir=options.data_dir,
        robust=options.robustness, salient=options.saliency,
    )  # fmt: skip
    if not distributed.is_first():
        return 0
    common.show(options, text)
    return summary
