"""`expressnet`, standing still at a place of its own in the process that a test is going to kill or stop there.

DIES_IN=save DIES=1 MARK=FILE python -m tests.multiprocess.dies train ... --distributed
"""

import os
import sys
import time
from pathlib import Path

from expressnet_jax import cli
from expressnet_jax.checkpoint.manager import Manager
from expressnet_jax.evaluation import answers
from expressnet_jax.train import loop

#: What is held up, and from which call of it on.
PLACES = {
    "step": (loop, "_drawn", 3), "save": (Manager, "save", 1), "evaluation": (answers, "evaluate", 1),
    "barrier": (Manager, "wait", 1),
}  # fmt: skip

if __name__ == "__main__":
    if os.environ["JAX_PROCESS_ID"] == os.environ["DIES"]:
        owner, name, call = PLACES[os.environ["DIES_IN"]]
        function, calls = getattr(owner, name), []

        def held_up(*arguments, **settings):
            calls.append(1)
            if len(calls) == call:
                Path(os.environ["MARK"]).touch()
                time.sleep(600)
            return function(*arguments, **settings)

        setattr(owner, name, held_up)
    sys.exit(cli.main(sys.argv[1:]))
