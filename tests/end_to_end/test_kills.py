"""Runs that are killed at random places, again and again, end as one that was left alone: weights and records.

python -m tests.end_to_end.test_kills 100        so many kills; the figures of docs/resume.md
"""

import collections
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from data_pipelines import prepare
from expressnet_jax.runs.folder import read_records
from tests.conftest import TINY, separate, start

TOTAL, EVAL = 12, 4  # steps
#: Where a signal comes: so many seconds at most after a line with this text, in the run's own words.
PLACES = {
    "start-up": ("", 6.0), "compilation": ("compiling", 2.0), "step": ("step {}/", 0.1),
    "evaluation": ("step {}/", 0.3), "save": ("validation at", 0.2), "end": (f"step {TOTAL}/", 0.6),
}  # fmt: skip
#: Of a record, what the clock says.
CLOCK = ("images_per_second", "data_wait")


def command(workdir, data_dir):
    return ["train", f"--config={TINY}", f"--config.total={TOTAL}steps", f"--config.eval_every={EVAL}steps",
            "--config.save_every=2steps", "--config.log_every=1steps", "--workdir", workdir,
            "--data_dir", data_dir]  # fmt: skip


def outcome(workdir):
    """The digest of the best weights, and the records without the clock."""
    lines = [{k: v for k, v in record.items() if k not in CLOCK} for record in read_records(workdir)]
    return json.loads(separate("inspect", workdir, "--json").stdout)["digest"], lines


def until(process, text):
    """Reads what a run says up to a line with this text; whether there was one."""
    return not text or any(text in line for line in process.stderr)


def killed(workdir, data_dir, rng, tally, most):
    """Starts a run until it ends by itself, after at most so many signals."""
    while True:
        process = start(*command(workdir, data_dir))
        place = rng.choice(list(PLACES)) if sum(tally.values()) < most else ""
        how = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        if place:
            text, seconds = PLACES[place]
            step = rng.randrange(1, TOTAL) if place == "step" else EVAL * rng.randrange(1, TOTAL // EVAL + 1)
            if until(process, text.format(step)):
                time.sleep(rng.uniform(0, seconds))
                process.send_signal(how)
                tally[place, how.name] += 1
        said = process.communicate(timeout=600)[1]
        if process.returncode == 0:
            return
        # Before Python has put its own handlers in place, a signal ends a process as any other.
        expected = {signal.SIGKILL: (-9,), signal.SIGTERM: (75, -15), signal.SIGINT: (130, -2, 1)}[how]
        assert place and process.returncode in expected, (place, how, process.returncode, said[-2000:])


def many(kills, folder, data_dir, seed=0):
    """(runs, runs that ended otherwise than one that was left alone, signals by place and kind)."""
    rng, tally, runs, wrong = random.Random(seed), collections.Counter(), 0, []
    whole = folder / "whole"
    assert separate(*command(whole, data_dir)).returncode == 0
    expected = outcome(whole)
    while sum(tally.values()) < kills:
        workdir = folder / str(runs)
        killed(workdir, data_dir, rng, tally, min(kills, sum(tally.values()) + rng.randrange(1, 5)))
        wrong += [runs] if outcome(workdir) != expected else []
        runs += 1
        print(f"{runs} runs, {sum(tally.values())} signals, {len(wrong)} ended otherwise", file=sys.stderr, flush=True)
    return runs, wrong, tally


def test_a_run_that_is_killed_at_random_ends_as_if_it_was_not(tmp_path, data_dir):
    runs, wrong, tally = many(3, tmp_path, data_dir)
    assert runs and not wrong and sum(tally.values()) == 3


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        prepare.prepare("synthetic_faces/tiny", None, data_dir=f"{made}/data")
        found = many(int(sys.argv[1]), Path(made), Path(made, "data"))
        print(f"{found[0]} runs, ended otherwise: {found[1]}")
        for (place, how), times in sorted(found[2].items()):
            print(f"{place:<12} {how:<8} {times}")
