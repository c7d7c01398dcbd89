"""Trains with one expert of each layer made attractive, as a router collapses by itself: the figures of docs/moe.md.

    python -m tests.collapse DATA_DIR WORKDIR [--config.KEY=VALUE ...]

The bias of expert 0 in both routers starts at 4 and not at 0, so that its probability is near 1 for every image.
"""

import sys
from pathlib import Path

from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import of_run as report
from expressnet_jax.runs import state as states
from expressnet_jax.train import loop

_init = states.init


def attractive(*arguments):
    """A new state whose routers prefer their first expert."""
    state = _init(*arguments)
    for layer in ("moe_cnn", "moe_expression"):
        gate = state.params[layer]["gate"]
        gate["bias"] = gate["bias"].at[0].set(4.0)
    return state


def main() -> None:
    data_dir, workdir, *changes = sys.argv[1:]
    pairs = [tuple(change.removeprefix("--config.").split("=", 1)) for change in changes]
    states.init = attractive
    loop.train(config_files.load("fer2013_small", pairs), Path(workdir), data_dir=data_dir)
    report.curves(Path(workdir))


if __name__ == "__main__":
    main()
