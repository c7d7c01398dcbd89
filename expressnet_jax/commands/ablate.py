"""The commands `expressnet ablate` and `expressnet report`: their arguments, and what they do with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[[str], None]


def add(commands: Any, command: Any, config: str, data_dir: str, path: Callable[[str], Path]) -> None:
    """Adds both commands to the parser's."""
    ablate = command(commands, "ablate", "Compare settings: train each with several seeds, and say what differs.")
    ablate.add_argument("--out", required=True, type=path, help="the study's folder; the same command goes on in it")
    ablate.add_argument("--config", help=f"of all runs: {config}")
    ablate.add_argument("--sweep", metavar="'K=A,B;K2=C,D'", help="all combinations; log:LOW:HIGH, uniform:LOW:HIGH")
    ablate.add_argument("--random", type=int, metavar="N", help="N random draws from --sweep, not all combinations")
    ablate.add_argument("--list", type=path, metavar="FILE", help="or one setting a line: KEY=VALUE KEY2=VALUE")
    ablate.add_argument("--study", metavar="NAME|FILE", help="or a ready-made study of configs/ablations")
    ablate.add_argument("--seeds", type=int, metavar="N", help="runs of each setting, with seeds 0, 1, ... (default 3)")
    ablate.add_argument(
        "--baseline", metavar="ARM", help="compare with it (default: the config unchanged, or the first)"
    )
    ablate.add_argument("--split", help="compare on it (default: the validation examples, so that no test is spent)")
    ablate.add_argument("--plan", action="store_true", help="write and print the plan, with its time; run nothing")
    ablate.add_argument("--evaluate_only", action="store_true", help="train nothing: jobs of a cluster have, or will")
    ablate.add_argument("--data_dir", help=data_dir)
    report = command(commands, "report", "One page about runs or a study: figures, intervals, pictures; no network.")
    report.add_argument("path", nargs="+", type=path, help="folders of runs, or of one study")
    report.add_argument("--out", required=True, type=path, help="the HTML file")
    report.add_argument("--tables", type=path, metavar="DIR", help="also the same as CSV and LaTeX tables")
    report.add_argument("--against", choices=("paper",), help="beside the published figures, with what is comparable")
    report.add_argument("--no_pictures", action="store_true", help="leave photographs out, to share the page")


def ablate(options: argparse.Namespace, overrides: list[tuple[str, str]], say: Say) -> tuple[dict[str, Any], int]:
    """Plans a study, runs what is missing, and makes its page: what --json prints, and the exit code."""
    from expressnet_jax.ablation import outcome, runner, study
    from expressnet_jax.report import collect, page, terminal

    if options.seeds is not None and options.seeds < 1:
        raise_usage(f"--seeds={options.seeds} must be at least 1")
    on_cpu()
    if options.config is None and options.study is None and not (options.sweep or options.list):
        if overrides:
            raise_usage("--config.KEY=VALUE goes with --config or --study; without them the study goes on as planned")
        facts, found, seeds = _as_before(options)
    else:
        facts, found, seeds = _asked(options, overrides)
    flops = runner.work(found.arms, facts["split"], options.data_dir)
    with study.locked(options.out):
        planned = study.planned(options.out, facts, found.arms, found.left_out, seeds)
        study.check(planned, found.arms)
        study.write(planned)
        say(terminal.plan(planned, flops))
        counts = outcome.counts(outcome.of_all(planned))
        rate = None if options.evaluate_only or counts["done"] == counts["planned"] else runner.speed(planned)
        say(runner.left(planned, flops, rate))
        if options.plan:
            return {"study": planned.plain(), "counts": counts}, 0
        outcomes = runner.run(planned, flops, rate, options.data_dir, training=not options.evaluate_only)
    report = collect.of_study(planned, outcomes)
    page.write(report, options.out / "report.html")
    say(terminal.study(report["study"]) + f"\nwritten to {options.out / 'report.html'}")
    counts = report["study"]["counts"]
    return report["study"], 1 if counts["done"] < counts["planned"] else 0


def report(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Makes the page of runs or of a study, and returns what is on it."""
    from expressnet_jax.report import collect, page, tables

    on_cpu()
    if not options.out.absolute().parent.is_dir():  # said before the work, not after it
        raise_usage(f"--out {options.out}: there is no folder {options.out.absolute().parent}")
    found = collect.document(options.path, against=options.against is not None, pictures=not options.no_pictures)
    page.write(found, options.out)
    say(f"written to {options.out}")
    if options.tables:
        tables.write_csv(found, options.tables)
        tables.write_latex(found, options.tables)
        say(f"tables in {options.tables}")
    return found


def _as_before(options: argparse.Namespace) -> tuple[dict[str, Any], Any, int]:
    """(facts, arms, number of seeds) of the study that is in the folder; its split and baseline may be others now."""
    from expressnet_jax.ablation import study, sweep

    if options.random is not None:
        raise_usage("--random N draws from --sweep")
    before = study.read(options.out)
    found = sweep.resolve(before.config, before.common, before.arms)
    found = found._replace(left_out=[*before.left_out, *found.left_out])
    facts: dict[str, Any] = {key: getattr(before, key) for key in ("name", "question", "config", "common")}
    wanted = options.baseline or before.baseline
    facts["baseline"] = sweep.baseline(found.arms, before.config, before.common, wanted)
    facts["split"] = options.split or before.split
    return facts, found, options.seeds or len(before.seeds)


def _asked(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> tuple[dict[str, Any], Any, int]:
    """(facts, arms, number of seeds) of the study that the command line describes."""
    from expressnet_jax.ablation import sweep

    asked = [name for name in ("study", "list") if getattr(options, name) is not None]
    if options.sweep is not None:
        asked.append("sweep")
    if len(asked) != 1:
        raise_usage(f"give one of --sweep, --list and --study, not {' and '.join(asked) or 'none of them'}")
    if options.random is not None and (options.sweep is None or options.random < 2):
        raise_usage("--random N draws from --sweep, with N at least 2")
    facts: dict[str, Any] = {"question": "", "name": options.out.name}
    repeated: list[dict[str, str]] = []
    if options.study is not None:
        made = sweep.ready_made(options.study)
        facts = {"question": made["question"], "name": made["name"]}
        config, settings = options.config or made["config"], made["arms"]
        wanted, seeds = options.baseline or made["baseline"], options.seeds or made.get("seeds", 3)
        missing = [f"--config.{key}: {why}" for key, why in made.get("needs", {}).items() if key not in dict(overrides)]
        if missing:
            raise_usage(f"this study needs {'; '.join(missing)}")
    else:
        if options.config is None:
            raise_usage("--sweep and --list go with --config")
        config, wanted, seeds = options.config, options.baseline, options.seeds or 3
        if options.list is not None:
            settings = sweep.named(sweep.listed(options.list))
        else:
            drawn = sweep.draws(options.sweep, options.random) if options.random else sweep.grid(options.sweep)
            settings = sweep.named(drawn)
            if len(settings) < len(drawn):
                repeated.append({"arm": f"{len(drawn) - len(settings)} settings", "why": "equal to another one"})
            if options.random and wanted is None:  # of random settings none is the one to compare with
                settings = {"unchanged": {}} | settings
    found = sweep.resolve(config, overrides, settings)
    found = found._replace(left_out=[*repeated, *found.left_out])
    facts |= {"config": config, "common": overrides, "split": options.split or "held_out"}
    return facts | {"baseline": sweep.baseline(found.arms, config, overrides, wanted)}, found, seeds


def on_cpu() -> None:
    """This process only reads and counts: the accelerator is for the runs that it starts."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def raise_usage(message: str) -> None:
    """A mistake on the command line, as one line."""
    from expressnet_jax.config import ConfigError

    raise ConfigError(message)
