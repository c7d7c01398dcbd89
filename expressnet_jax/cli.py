"""The command line: `expressnet train | evaluate | ablate | report | inspect | plan | export | predict | bench | data`.

Text goes to standard error, JSON to standard output; exit codes are 0 done, 1 failed, 2 wrong usage, 75 stopped by
SIGTERM, 130 stopped by SIGINT.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def _train(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any] | int:
    from expressnet_jax.config import files as config_files
    from expressnet_jax.evaluation import of_run as report
    from expressnet_jax.parallel import distributed
    from expressnet_jax.train import loop

    config = config_files.load(options.config, overrides)
    _start_jax(distributed=options.distributed)
    summary = loop.train(config, options.workdir, data_dir=options.data_dir)
    if not distributed.is_first():
        return 0
    report.curves(options.workdir)
    _say((options.workdir / "summary.txt").read_text())
    return summary


def _evaluate(options: argparse.Namespace, _: list[tuple[str, str]]) -> dict[str, Any] | int:
    from expressnet_jax.evaluation import of_run as report
    from expressnet_jax.parallel import distributed

    _start_jax(distributed=options.distributed)
    summary, text = report.evaluate_run(
        options.workdir, data=options.data, split=options.split, data_dir=options.data_dir,
        robust=options.robustness, salient=options.saliency,
    )  # fmt: skip
    if not distributed.is_first():
        return 0
    _say(text)
    return summary


def _inspect(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from expressnet_jax.config import ConfigError
    from expressnet_jax.config import files as config_files
    from expressnet_jax.export import inspection

    if bool(options.path) == (options.config is not None) or len(options.path) > 2:
        raise ConfigError("give one or two folders (run, checkpoint, artifact), or --config")
    if options.path and overrides:
        raise ConfigError("--config.KEY=VALUE goes with --config, not with the folder of a run")
    if options.path and options.selfcheck:
        raise ConfigError("--selfcheck goes with --config, not with the folder of a run")
    config = None if options.path else config_files.load(options.config, overrides)
    _start_jax()
    if options.selfcheck and config is not None:
        return inspection.selfcheck(config, _say)
    if config is not None:
        found = inspection.of_config(config)
        _say(inspection.describe(found))
        return found
    models = [inspection.of_path(path) for path in options.path]
    for model in models:
        _say(inspection.describe(model.facts))
    if len(models) == 1:
        return models[0].facts
    difference = inspection.compare(*models)
    _say(inspection.describe_difference(difference))
    return {"first": models[0].facts, "second": models[1].facts, "difference": difference}


def _export(options: argparse.Namespace, _: list[tuple[str, str]]) -> dict[str, Any]:
    from expressnet_jax.export import from_run as export

    _start_jax()
    return export.export(
        options.workdir, options.formats.split(","), options.out, ema=not options.raw, dtype=options.dtype,
        weights="best" if options.step is None else options.step, quantize=options.quantize,
        data_dir=options.data_dir, overwrite=options.overwrite,
    )  # fmt: skip


def _predict(options: argparse.Namespace, _: list[tuple[str, str]]) -> int:
    import warnings

    from expressnet_jax.predict import inputs as predict_inputs
    from expressnet_jax.predict import output as predict_output
    from expressnet_jax.predict import recognizer as predict

    _start_jax()
    warnings.showwarning = lambda message, *_, **__: _say(f"expressnet: {message}")
    if options.batch is None and any(map(predict_inputs.is_camera, options.paths)):
        options.batch = 4  # a face that is waited for should not wait for others
    model = predict.load(options.model, faces=options.faces, faces_model=options.faces_model, batch_size=options.batch)
    return predict_output.run(
        model, options.paths, json=sys.stdout if options.json else None, csv_file=options.csv, draw=options.draw,
        every=options.every,
    )  # fmt: skip


def _prepare(options: argparse.Namespace, _: list[tuple[str, str]]) -> dict[str, Any]:
    from data_pipelines import prepare
    from data_pipelines.common.errors import UsageError

    faces = None
    if options.faces:
        faces = prepare.Faces(options.faces, options.faces_model, options.align, options.recrop)
    elif options.faces_model or options.align or options.recrop:
        raise UsageError("--faces_model, --align and --recrop go with --faces DETECTOR")
    report = prepare.prepare(
        options.name, options.source, data_dir=options.data_dir, strict=options.strict, overwrite=options.overwrite,
        side=options.size, faces=faces,
    )  # fmt: skip
    _say(prepare.describe(report))
    return report


def _audit(options: argparse.Namespace, _: list[tuple[str, str]]) -> dict[str, Any]:
    from data_pipelines.audit import audit
    from data_pipelines.audit import page as audit_page
    from data_pipelines.common.errors import UsageError

    if options.html and not options.html.absolute().parent.is_dir():  # said before the work, not after it
        raise UsageError(f"--html {options.html}: there is no folder {options.html.absolute().parent}")
    report = audit.audit(options.what, data_dir=options.data_dir)
    _say(audit.describe(report))
    if options.html:
        audit_page.write(report, options.html)
        _say(f"written to {options.html}")
    return report


def _bench(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from expressnet_jax.bench import experts as bench_experts
    from expressnet_jax.bench import input as bench_input
    from expressnet_jax.bench import network as bench
    from expressnet_jax.config import ConfigError
    from expressnet_jax.config import files as config_files

    config = config_files.load(options.config, overrides)
    if options.what in ("conv", "input", "moe") and (options.only or options.against):
        raise ConfigError(f"--only and --against go with step and infer, not with {options.what}")
    for name in ("repeats", "pairs"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}={getattr(options, name)} must be at least 1")
    if options.what != "input" and (options.hosts, options.host, options.step_ms) != (1, 0, None):
        raise ConfigError(f"--hosts, --host and --step_ms go with input, not with {options.what}")
    _start_jax()
    if options.what == "conv":
        found = bench.conv(config, repeats=options.repeats)
    elif options.what == "moe":
        found = bench_experts.sweep(config, repeats=options.repeats)
    elif options.what == "input":
        found = bench_input.measure(
            config, data_dir=options.data_dir, host=options.host, hosts=options.hosts, step_ms=options.step_ms
        )
    else:
        measure = bench.step if options.what == "step" else bench.infer
        against = bench.Peer(options.against, options.pairs) if options.against else None
        found = measure(config, only=options.only or "", against=against, repeats=options.repeats)
    _say({"moe": bench_experts, "input": bench_input}.get(options.what, bench).describe(found))
    return found


def _plan(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from expressnet_jax.commands import plan as cli_plan

    return cli_plan.run(options, overrides, _start_jax, _say)


def _ablate(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from expressnet_jax.commands import ablate as cli_ablate
    from expressnet_jax.runs import folder as run_folder

    found, code = cli_ablate.ablate(options, overrides, _say)
    if options.json:
        print(run_folder.json_line(found), end="")
    return code


def _report(options: argparse.Namespace, _: list[tuple[str, str]]) -> dict[str, Any]:
    from expressnet_jax.commands import ablate as cli_ablate

    return cli_ablate.report(options, _say)


_COMMANDS: dict[str, Callable[..., dict[str, Any] | int]] = {
    "train": _train, "evaluate": _evaluate, "inspect": _inspect, "bench": _bench, "prepare": _prepare, "audit": _audit,
    "export": _export, "predict": _predict, "plan": _plan,
    "ablate": _ablate, "report": _report,
}  # fmt: skip


def _start_jax(*, distributed: bool = False) -> None:
    """Settings of the process: compiled programs are kept from one run to the next. Joins the others of a job."""
    import jax

    if distributed:
        from expressnet_jax.parallel import distributed as processes

        processes.join()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expressnet_jax" / "xla"
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        # Read back from the cache, a CPU program has lost the order of its collectives: on a busy machine one device
        # waits in one, the others in the next, until XLA aborts (seen in 10 of 10 loaded runs; without, in 0 of 11).
        jax.config.update("jax_enable_compilation_cache", False)


def _say(text: str) -> None:
    print(text.rstrip(), file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. A user's mistake is one line, never a traceback."""
    try:
        code = _run(arguments)
    except Exception:
        traceback.print_exc()
        code = 1
    if code not in (0, 75) and "expressnet_jax.parallel.distributed" in sys.modules:
        sys.modules["expressnet_jax.parallel.distributed"].leave(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes about its own cache are not the user's concern
    from data_pipelines.common.errors import DataError, UsageError
    from expressnet_jax.commands import arguments as cli_parser
    from expressnet_jax.config import ConfigError
    from expressnet_jax.runs import folder as run_folder

    try:
        rest, overrides = cli_parser.overrides(arguments)
        options = cli_parser.parser().parse_args(rest)
        if overrides and getattr(options, "config", None) is None and options.command not in ("inspect", "ablate"):
            raise ConfigError(f"--config.{overrides[0][0]} goes with --config, which {options.command} does not take")
        result = _COMMANDS[options.command](options, overrides)
        if isinstance(result, int):  # it has written its own document piece by piece, or another process does
            return result
        if options.json:
            print(run_folder.json_line(result), end="")
        return 0
    except (ConfigError, UsageError) as error:
        return _failed(2, error)
    except DataError as error:
        return _failed(1, error)
    except KeyboardInterrupt as error:
        return _failed(130, str(error) or "interrupted")
    except Exception as error:
        return _explained(error)


def _explained(error: Exception) -> int:
    """Exit codes of failures whose classes are costly to import, and of a full disk in any disguise."""
    from expressnet_jax.bench.network import BenchError
    from expressnet_jax.checkpoint.manager import CheckpointError
    from expressnet_jax.checkpoint.weight_files import WeightsError
    from expressnet_jax.export.artifact import ArtifactError
    from expressnet_jax.export.inspection import SelfcheckError
    from expressnet_jax.parallel.distributed import PeerError, lost
    from expressnet_jax.plan.compiled import PlanError
    from expressnet_jax.predict.recognizer import PredictError
    from expressnet_jax.train.loop import TrainingError
    from expressnet_jax.train.stop import Interrupted

    if isinstance(error, Interrupted):
        return _failed(error.exit_code, error)
    rooms = (TrainingError, CheckpointError, WeightsError, ArtifactError, PredictError, BenchError, SelfcheckError)
    if isinstance(error, (*rooms, PeerError, PlanError)):
        return _failed(1, error)
    text = " ".join(str(error).split())
    if lost(error):
        return _failed(75, f"another process of the job is gone ({text[:200]}); started again, the job resumes")
    full = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    if any(reason in text for reason in full):  # libraries raise it as anything
        return _failed(1, f"the disk takes no more ({text[:200]}); free some space and run the same command again")
    if "RESOURCE_EXHAUSTED" in text:
        return _failed(1, f"the device's memory does not hold this; use a smaller batch_size ({text[:200]})")
    if isinstance(error, OSError) or "Unable to initialize backend" in text:
        return _failed(1, text)
    raise error


def _failed(code: int, message: object) -> int:
    from data_pipelines.common.text import LONG, shown

    # It may quote a stranger's file, which must neither steer the terminal nor look like a second line.
    print(f"expressnet: {shown(str(message), LONG)}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
