"""Compare settings: train each with several seeds, and say what differs.

example: expressnet ablate --config=fer2013_small --sweep 'moe.num_experts=1,2,4;moe.top_k=1,2' --out studies/e
"""

import functools
from argparse import ArgumentParser, Namespace
from typing import Any

from data_pipelines.common.errors import UsageError
from data_pipelines.common.files import check_folder
from data_pipelines.common.text import say
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--out", required=True, type=common.path, help="the study's folder, new or to go on in")
    parser.add_argument("--config", help=f"of all runs: {common.CONFIG}")
    arms = parser.add_mutually_exclusive_group()
    arms.add_argument("--sweep", metavar="'K=A,B;K2=C,D'", help="all combinations; log:LOW:HIGH, uniform:LOW:HIGH")
    arms.add_argument("--list", type=common.path, metavar="FILE", help="or one setting a line: K=A K2=C")
    arms.add_argument("--study", metavar="NAME|FILE", help="instead of both: a ready-made study of configs/ablations")
    parser.add_argument("--random", type=int, metavar="N", help="N random draws from --sweep, not all combinations")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each setting, with seeds 0, 1, ... (default 3)")
    parser.add_argument("--baseline", metavar="ARM", help="compare with (default: the config unchanged, or the first)")
    parser.add_argument("--split", help="compare on it (default: the validation examples, so that no test is spent)")
    parser.add_argument("--plan", action="store_true", help="write and print the plan, with its time; run nothing")
    parser.add_argument("--evaluate_only", action="store_true", help="train nothing: a cluster's jobs do that")
    parser.add_argument("--data_dir", type=common.local, help=common.DATA_DIR)


def run(options: Namespace) -> common.Result:
    """Plans a study, runs what is missing, and makes its page; returns 1 where runs are missing after that."""
    from expressnet_jax.ablation import runner, study, summary
    from expressnet_jax.report import collect, page

    if options.seeds is not None and options.seeds < 1:
        raise UsageError(f"--seeds={options.seeds} must be at least 1")
    check_folder("--out", options.out)
    common.on_cpu()
    facts, found, seeds = _asked(options)
    flops = runner.work(found.arms, facts["split"], options.data_dir)
    with study.locked(options.out):
        planned = study.planned(options.out, facts, found.arms, found.left_out, seeds)
        study.check(planned, found.arms)
        study.write(planned)
        tell = functools.partial(common.show, options) if options.plan else say
        tell(summary.describe_plan(planned, flops))
        counts = study.counts(planned.outcomes())
        pace = None if options.evaluate_only or counts["done"] == counts["planned"] else runner.speed(planned)
        tell(runner.left(planned, flops, pace))
        if options.plan:
            return {"study": planned.plain(), "counts": counts}
        outcomes = runner.run(planned, flops, pace, options.data_dir, training=not options.evaluate_only)
    report = collect.of_study(planned, outcomes)
    page.write(report, options.out / "report.html")
    common.show(options, summary.describe(report["study"]))
    say(f"written to {options.out / 'report.html'}")
    counts = report["study"]["counts"]
    return report["study"], 1 if counts["done"] < counts["planned"] else 0


def _asked(options: Namespace) -> tuple[dict[str, Any], Any, int]:
    """The study that the command line describes, or the one that is in the folder: facts, arms, number of seeds."""
    from expressnet_jax.ablation import sweep

    if options.random is not None and (options.sweep is None or options.random < 2):
        raise UsageError("--random N draws from --sweep, with N at least 2")
    if all(given is None for given in (options.config, options.sweep, options.list, options.study)):
        made = _as_before(options)
    elif options.study is not None:
        made = _ready_made(options)
    else:
        made = _own(options)
    config, shared = options.config or made["config"], made.get("common", options.overrides)
    found = sweep.resolve(config, shared, made["arms"])
    found = found._replace(left_out=[*made.get("left_out", []), *found.left_out])
    baseline = sweep.baseline(found.arms, config, shared, options.baseline or made["baseline"])
    facts = {"question": made["question"], "name": made["name"], "config": config, "common": shared}
    facts |= {"split": options.split or made.get("split", "held_out"), "baseline": baseline}
    return facts, found, options.seeds or made.get("seeds", 3)


def _as_before(options: Namespace) -> dict[str, Any]:
    """The study in the folder, in the form of a study's file."""
    from expressnet_jax.ablation import study

    if options.overrides:
        raise UsageError("--config.KEY=VALUE goes with --config or --study; without them the study goes on as planned")
    before = study.read(options.out)
    return before._asdict() | {"seeds": len(before.seeds)}


def _ready_made(options: Namespace) -> dict[str, Any]:
    """A study's file: what `sweep.ready_made` gives, once all that it needs is there."""
    from expressnet_jax.ablation import sweep

    made, given = sweep.ready_made(options.study), dict(options.overrides)
    missing = [f"--config.{key}: {why}" for key, why in made.get("needs", {}).items() if key not in given]
    if missing:
        raise UsageError(f"this study needs {'; '.join(missing)}")
    return {key: made[key] for key in ("name", "question", "config", "baseline", "seeds", "arms")}


def _own(options: Namespace) -> dict[str, Any]:
    """A list, a grid or random draws, in the form of a study's file."""
    from expressnet_jax.ablation import sweep

    if options.config is None:
        raise UsageError("--sweep and --list go with --config")
    if options.sweep is None and options.list is None:
        raise UsageError("--config alone is no study: give one of --sweep, --list and --study as well")
    if options.list is not None:
        settings = sweep.listed(options.list)
    else:
        settings = sweep.draws(options.sweep, options.random) if options.random else sweep.grid(options.sweep)
    arms = sweep.named(settings)
    more = len(settings) - len(arms)
    repeated = [{"arm": f"{more} settings", "why": "equal to another one"}] if more else []
    if options.random:  # of random settings none is the one to compare with
        arms = {"unchanged": {}} | arms
    return {"question": "", "name": options.out.name, "baseline": None, "arms": arms, "left_out": repeated}
