"""`expressnet ablate`."""

from __future__ import annotations

import argparse
from typing import Any

from data_pipelines.common.errors import UsageError
from expressnet_jax.commands import arguments, process


def add(commands: Any) -> None:
    """Adds the command."""
    parser = arguments.command(
        commands, "ablate", "Compare settings: train each with several seeds, and say what differs.", run,
        example="ablate --config=fer2013_small --sweep 'moe.num_experts=1,2,4;moe.top_k=1,2' --out studies/e",
    )  # fmt: skip
    out = "the study's folder; the same command goes on in it"
    parser.add_argument("--out", required=True, type=arguments.path, help=out)
    parser.add_argument("--config", help=f"of all runs: {arguments.CONFIG}")
    parser.add_argument("--sweep", metavar="'K=A,B;K2=C,D'", help="all combinations; log:LOW:HIGH, uniform:LOW:HIGH")
    parser.add_argument("--random", type=int, metavar="N", help="N random draws from --sweep, not all combinations")
    listed = "instead of --sweep: one setting a line, KEY=VALUE KEY2=VALUE"
    parser.add_argument("--list", type=arguments.path, metavar="FILE", help=listed)
    parser.add_argument("--study", metavar="NAME|FILE", help="instead of both: a ready-made study of configs/ablations")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each setting, with seeds 0, 1, ... (default 3)")
    baseline = "the setting to compare with (default: the config unchanged, or the first)"
    parser.add_argument("--baseline", metavar="ARM", help=baseline)
    split = "the split to compare on (default: the validation examples, so that no test is spent)"
    parser.add_argument("--split", help=split)
    parser.add_argument("--plan", action="store_true", help="write and print the plan, with its time; run nothing")
    evaluate = "train nothing: jobs of a cluster have done so, or will"
    parser.add_argument("--evaluate_only", action="store_true", help=evaluate)
    arguments.add_data_dir(parser)


def run(options: argparse.Namespace) -> arguments.Result:
    """Plans a study, runs what is missing, and makes its page; returns 1 where runs are missing after that."""
    from data_pipelines.common.text import json_line, say
    from expressnet_jax.ablation import runner, study
    from expressnet_jax.report import collect, page, terminal

    if options.seeds is not None and options.seeds < 1:
        raise UsageError(f"--seeds={options.seeds} must be at least 1")
    process.on_cpu()
    facts, found, seeds = _asked(options)
    flops = runner.work(found.arms, facts["split"], options.data_dir)
    with study.locked(options.out):
        planned = study.planned(options.out, facts, found.arms, found.left_out, seeds)
        study.check(planned, found.arms)
        study.write(planned)
        say(terminal.plan(planned, flops))
        counts = runner.counts(planned)
        rate = None if options.evaluate_only or counts["done"] == counts["planned"] else runner.speed(planned)
        say(runner.left(planned, flops, rate))
        if options.plan:
            return {"study": collect.plan(planned), "counts": counts}
        counts = runner.run(planned, flops, rate, options.data_dir, say, training=not options.evaluate_only)
    report = collect.document([options.out], say=say)
    page.write(report, options.out / "report.html")
    say(terminal.study(report["study"]) + f"\nwritten to {options.out / 'report.html'}")
    if options.json:
        print(json_line(report["study"] | {"counts": counts}), end="")
    return 1 if counts["done"] < counts["planned"] else 0


Asked = tuple[dict[str, Any], Any, int]  # the facts of a study, its arms, and the number of seeds


def _asked(options: argparse.Namespace) -> Asked:
    """The study that the command line describes, or the one that is in the folder."""
    asked = [f"--{name}" for name in ("study", "list", "sweep") if getattr(options, name) is not None]
    if options.random is not None and (options.sweep is None or options.random < 2):
        raise UsageError("--random N draws from --sweep, with N at least 2")
    if options.config is None and not asked:
        if options.overrides:
            raise UsageError(
                "--config.KEY=VALUE goes with --config or --study; without them the study goes on as planned"
            )
        return _as_before(options)
    if len(asked) != 1:
        raise UsageError(f"give one of --sweep, --list and --study, not {' and '.join(asked) or 'none of them'}")
    return _ready_made(options) if options.study is not None else _own(options)


def _as_before(options: argparse.Namespace) -> Asked:
    """The study in the folder; its split and baseline may be others now."""
    from expressnet_jax.ablation import study, sweep

    before = study.read(options.out)
    found = sweep.resolve(before.config, before.common, before.arms)
    found = found._replace(left_out=[*before.left_out, *found.left_out])
    facts: dict[str, Any] = {key: getattr(before, key) for key in ("name", "question", "config", "common")}
    wanted = options.baseline or before.baseline
    facts["baseline"] = sweep.baseline(found.arms, before.config, before.common, wanted)
    facts["split"] = options.split or before.split
    return facts, found, options.seeds or len(before.seeds)


def _ready_made(options: argparse.Namespace) -> Asked:
    """A study of a file."""
    from expressnet_jax.ablation import sweep

    made, given = sweep.ready_made(options.study), dict(options.overrides)
    missing = [f"--config.{key}: {why}" for key, why in made.get("needs", {}).items() if key not in given]
    if missing:
        raise UsageError(f"this study needs {'; '.join(missing)}")
    facts = {"question": made["question"], "name": made["name"], "config": options.config or made["config"]}
    found, wanted = made["arms"], options.baseline or made["baseline"]
    return _resolved(options, facts, found, wanted, options.seeds or made.get("seeds", 3))


def _own(options: argparse.Namespace) -> Asked:
    """A study of a list, a grid or random draws."""
    from expressnet_jax.ablation import sweep

    if options.config is None:
        raise UsageError("--sweep and --list go with --config")
    facts = {"question": "", "name": options.out.name, "config": options.config}
    if options.list is not None:
        drawn = sweep.listed(options.list)
    else:
        drawn = sweep.draws(options.sweep, options.random) if options.random else sweep.grid(options.sweep)
    settings = sweep.named(drawn)
    repeated = len(drawn) - len(settings)
    if options.random and options.baseline is None:  # of random settings none is the one to compare with
        settings = {"unchanged": {}} | settings
    facts, found, seeds = _resolved(options, facts, settings, options.baseline, options.seeds or 3)
    if repeated:
        found = found._replace(
            left_out=[{"arm": f"{repeated} settings", "why": "equal to another one"}, *found.left_out]
        )
    return facts, found, seeds


def _resolved(options: argparse.Namespace, facts: dict[str, Any], settings: Any, wanted: Any, seeds: int) -> Asked:
    from expressnet_jax.ablation import sweep

    found = sweep.resolve(facts["config"], options.overrides, settings)
    baseline = sweep.baseline(found.arms, facts["config"], options.overrides, wanted)
    facts = facts | {"common": options.overrides, "split": options.split or "held_out", "baseline": baseline}
    return facts, found, seeds
