"""The command line: `expressnet train | evaluate | inspect | export | predict | bench | data prepare | data audit`.

Text goes to standard error, JSON to standard output; exit codes are 0 done, 1 failed, 2 wrong usage, 75 stopped by
SIGTERM, 130 stopped by SIGINT.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_EXAMPLES = {
    "train": "expressnet train --config=fer2013_small --workdir runs/small --config.batch_size=64",
    "evaluate": "expressnet evaluate --workdir runs/small --data fer2013 --split public_test",
    "inspect": "expressnet inspect --config=fer2013:paper --config.moe.num_experts=8",
    "export": "expressnet export --workdir runs/small --formats stablehlo,onnx --out artifacts/small",
    "predict": "expressnet predict holiday/ --model artifacts/small --faces haar --csv faces.csv",
    "bench": "expressnet bench step --config=fer2013:paper --config.batch_size=8 --only backbone",
    "prepare": "expressnet data prepare fer2013 --from Downloads/fer2013.zip",
    "audit": "expressnet data audit fer2013 --html fer2013.html",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"expressnet: {message} (see {self.prog} --help)\n")


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="expressnet", description="ExpressNet-MoE: facial-expression recognition in JAX.")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="train|evaluate|inspect|export|predict|bench|data"
    )

    def command(parent: Any, name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = parent.add_parser(
            name, help=text, description=text, epilog=f"example: {_EXAMPLES[name]}", allow_abbrev=False
        )
        made.add_argument("--json", action="store_true", help="print one JSON document on standard output")
        return made

    config = "a packaged config or a file, with a recipe after a colon; --config.KEY=VALUE changes one setting"
    data_dir = "where prepared data sets lie (default: TensorFlow Datasets' own folder)"
    train = command(commands, "train", "Train a network; the same command resumes an interrupted run.")
    train.add_argument("--config", required=True, help=config)
    train.add_argument("--workdir", required=True, type=_path, help="the folder of this run")
    train.add_argument("--data_dir", help=data_dir)
    evaluate = command(commands, "evaluate", "Evaluate the best checkpoint of a run.")
    evaluate.add_argument("--workdir", required=True, type=_path, help="the folder of a run")
    evaluate.add_argument("--data", help="another prepared data set; classes are matched by name")
    evaluate.add_argument("--split", help="default: the test split that the run's config names")
    evaluate.add_argument("--data_dir", help=data_dir)
    inspect = command(commands, "inspect", "Show the size and cost of a network, or what a run or an artifact holds.")
    inspect.add_argument(
        "path", nargs="*", type=_path, help="a run, RUN/checkpoints/STEP or an artifact; two are compared"
    )
    inspect.add_argument("--config", help=config)
    inspect.add_argument(
        "--selfcheck", action="store_true", help="with --config: check each way to reach the experts on these devices"
    )
    _add_export_and_predict(commands, command, data_dir)
    _add_bench(commands, command, config, data_dir)
    _add_data(commands, command, data_dir)
    return parser


def _add_bench(commands: Any, command: Any, config: str, data_dir: str) -> None:
    bench = command(commands, "bench", "Measure speed here: a step, convolutions, the loader, inference, experts.")
    bench.add_argument("what", choices=("step", "conv", "input", "infer", "moe"), help="what to measure")
    bench.add_argument("--config", required=True, help=config)
    bench.add_argument("--only", choices=("backbone",), help="step, infer: the ResNet and a linear head alone")
    bench.add_argument("--against", metavar="COMMAND", help="step, infer: a peer's script, with its arguments, in turn")
    bench.add_argument("--topology", help="step: compile for a TPU that is not here, such as v5e:2x2; nothing is run")
    bench.add_argument("--pairs", type=int, default=3, help="with --against: how often each of the two is measured")
    bench.add_argument("--repeats", type=int, default=5, help="runs of each median, after two that do not count")
    bench.add_argument("--data_dir", help=data_dir)


def _add_data(commands: Any, command: Any, data_dir: str) -> None:
    from data_pipelines.builders import BUILDERS

    data = commands.add_parser("data", help="Data sets: prepare, audit.").add_subparsers(
        dest="command", required=True, metavar="prepare|audit"
    )
    prepare = command(data, "prepare", "Turn your own copy of a data set into the form that training reads.")
    prepare.add_argument("name", help=", ".join(BUILDERS))
    prepare.add_argument("--from", dest="source", help="a folder, tar, zip or csv; nothing is downloaded")
    prepare.add_argument("--data_dir", help=data_dir)
    prepare.add_argument("--strict", action="store_true", help="refuse unreadable pictures instead of skipping them")
    prepare.add_argument("--overwrite", action="store_true", help="replace a data set that was prepared before")
    prepare.add_argument("--size", type=int, default=0, help="store squares of so many pixels (default: as found)")
    prepare.add_argument("--faces", metavar="DETECTOR", help="cut out the faces, once: haar, yunet or blazeface")
    prepare.add_argument("--faces_model", metavar="FILE", help="model of yunet (.onnx) or blazeface (.tflite)")
    prepare.add_argument("--align", action="store_true", help="with --faces: turn the eyes level")
    prepare.add_argument("--recrop", action="store_true", help="with --faces: cut aligned pictures out again")
    audit = command(data, "audit", "Look for duplicates, leaks between splits, wrong labels and bad pictures.")
    audit.add_argument("what", metavar="NAME|PATH", help="a prepared data set, or pictures in any known layout")
    audit.add_argument("--data_dir", help=data_dir)
    audit.add_argument("--html", type=_path, metavar="FILE", help="also write a page with examples of what was found")


def _add_export_and_predict(commands: Any, command: Any, data_dir: str) -> None:
    export = command(commands, "export", "Make a folder that applications load from a run's best checkpoint.")
    export.add_argument("--workdir", required=True, type=_path, help="the folder of a run")
    export.add_argument("--out", required=True, type=_path, help="the artifact's folder")
    export.add_argument("--formats", default="safetensors", help="of safetensors,stablehlo,onnx,savedmodel (comma)")
    export.add_argument("--step", type=int, help="of another checkpoint than the best")
    export.add_argument("--raw", action="store_true", help="the last step's weights, not those averaged over steps")
    export.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the stored weights")
    export.add_argument("--quantize", choices=("float16", "int8"), help="a further ONNX file in lower precision")
    export.add_argument("--data_dir", help=data_dir)
    export.add_argument("--overwrite", action="store_true", help="replace an artifact that is there")
    predict = command(commands, "predict", "Name the expressions in pictures, folders, videos, or before a camera.")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="picture, folder, pattern, video, or camera:0")
    predict.add_argument("--model", required=True, type=_path, help="an artifact of `expressnet export`")
    predict.add_argument(
        "--faces", metavar="DETECTOR", help="haar, yunet, blazeface, or none (default: as in training)"
    )
    predict.add_argument("--faces_model", metavar="FILE", help="model of yunet (.onnx) or blazeface (.tflite)")
    predict.add_argument("--csv", type=_path, metavar="FILE", help="a table with one row a face")
    predict.add_argument("--draw", type=_path, metavar="DIR", help="copies of the pictures with boxes and labels")
    predict.add_argument("--every", type=int, default=1, help="of a video: one frame of so many")
    predict.add_argument("--batch", type=int, help="pictures that the device is given at once")


def _overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.key=value` and `--config.key value` out of the arguments."""
    from expressnet_jax.config import ConfigError

    rest, overrides, waiting = [], [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, found, value = argument.removeprefix("--config.").partition("=")
        if not found:
            if not waiting or waiting[0].startswith("--"):
                raise ConfigError(f"{argument} needs a value: {argument}=VALUE")
            value = waiting.pop(0)
        overrides.append((key, value))
    return rest, overrides


def _train(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from expressnet_jax import config_files
    from expressnet_jax.evaluation import report
    from expressnet_jax.train import loop

    config = config_files.load(options.config, overrides)
    _start_jax()
    summary = loop.train(config, options.workdir, data_dir=options.data_dir)
    report.curves(options.workdir)
    _say((options.workdir / "summary.txt").read_text())
    return summary


def _evaluate(options: argparse.Namespace, _: list[tuple[str, str]]) -> dict[str, Any]:
    from expressnet_jax.evaluation import report

    _start_jax()
    summary, text = report.evaluate_run(
        options.workdir, data=options.data, split=options.split, data_dir=options.data_dir
    )
    _say(text)
    return summary


def _inspect(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from expressnet_jax import config_files, inspection
    from expressnet_jax.config import ConfigError

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
    from expressnet_jax.export import export

    _start_jax()
    return export.export(
        options.workdir, options.formats.split(","), options.out, ema=not options.raw, dtype=options.dtype,
        weights="best" if options.step is None else options.step, quantize=options.quantize,
        data_dir=options.data_dir, overwrite=options.overwrite,
    )  # fmt: skip


def _predict(options: argparse.Namespace, _: list[tuple[str, str]]) -> int:
    import warnings

    from expressnet_jax import predict, predict_inputs, predict_output

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
    from data_pipelines.errors import UsageError

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
    from data_pipelines import audit, audit_page
    from data_pipelines.errors import UsageError

    if options.html and not options.html.absolute().parent.is_dir():  # said before the work, not after it
        raise UsageError(f"--html {options.html}: there is no folder {options.html.absolute().parent}")
    report = audit.audit(options.what, data_dir=options.data_dir)
    _say(audit.describe(report))
    if options.html:
        audit_page.write(report, options.html)
        _say(f"written to {options.html}")
    return report


def _bench(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    if options.topology:  # before JAX starts, or it would look for the TPU
        os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    from expressnet_jax import bench, bench_experts, config_files
    from expressnet_jax.config import ConfigError

    config = config_files.load(options.config, overrides)
    if options.what in ("conv", "input", "moe") and (options.only or options.against):
        raise ConfigError(f"--only and --against go with step and infer, not with {options.what}")
    for name in ("repeats", "pairs"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}={getattr(options, name)} must be at least 1")
    if options.topology and (options.what != "step" or options.against):
        raise ConfigError("--topology goes with step, and not with --against")
    _start_jax()
    if options.topology:
        found = bench.compiled_for(config, options.topology, only=options.only or "")
    elif options.what == "conv":
        found = bench.conv(config, repeats=options.repeats)
    elif options.what == "moe":
        found = bench_experts.sweep(config, repeats=options.repeats)
    elif options.what == "input":
        found = bench.input(config, data_dir=options.data_dir)
    else:
        measure = bench.step if options.what == "step" else bench.infer
        against = bench.Peer(options.against, options.pairs) if options.against else None
        found = measure(config, only=options.only or "", against=against, repeats=options.repeats)
    _say(bench_experts.describe(found) if options.what == "moe" else bench.describe(found))
    return found


_COMMANDS: dict[str, Callable[..., dict[str, Any] | int]] = {
    "train": _train, "evaluate": _evaluate, "inspect": _inspect, "bench": _bench, "prepare": _prepare, "audit": _audit,
    "export": _export, "predict": _predict,
}  # fmt: skip


def _start_jax() -> None:
    """Settings of the process: compiled programs are kept from one run to the next."""
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expressnet_jax" / "xla"
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if jax.default_backend() == "cpu" and jax.local_device_count() > 1:
        # Read back from the cache, a CPU program has lost the order of its collectives: on a busy machine one device
        # waits in one, the others in the next, until XLA aborts (seen in 10 of 10 loaded runs; without, in 0 of 11).
        jax.config.update("jax_enable_compilation_cache", False)


def _say(text: str) -> None:
    print(text.rstrip(), file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. A user's mistake is one line, never a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes about its own cache are not the user's concern
    from data_pipelines.errors import DataError, UsageError
    from expressnet_jax.config import ConfigError
    from expressnet_jax.train import run_folder

    try:
        rest, overrides = _overrides(arguments)
        options = _parser().parse_args(rest)
        if overrides and getattr(options, "config", None) is None and options.command != "inspect":
            raise ConfigError(f"--config.{overrides[0][0]} goes with --config, which {options.command} does not take")
        result = _COMMANDS[options.command](options, overrides)
        if isinstance(result, int):  # it has written its own document, piece by piece
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
    from expressnet_jax.bench import BenchError
    from expressnet_jax.checkpoint.manager import CheckpointError
    from expressnet_jax.checkpoint.weight_files import WeightsError
    from expressnet_jax.export.artifact import ArtifactError
    from expressnet_jax.inspection import SelfcheckError
    from expressnet_jax.predict import PredictError
    from expressnet_jax.train.loop import TrainingError
    from expressnet_jax.train.stop import Interrupted

    if isinstance(error, Interrupted):
        return _failed(error.exit_code, error)
    rooms = (TrainingError, CheckpointError, WeightsError, ArtifactError, PredictError, BenchError, SelfcheckError)
    if isinstance(error, rooms):
        return _failed(1, error)
    text = " ".join(str(error).split())
    full = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    if any(reason in text for reason in full):  # libraries raise it as anything
        return _failed(1, f"the disk takes no more ({text[:200]}); free some space and run the same command again")
    if "RESOURCE_EXHAUSTED" in text:
        return _failed(1, f"the device's memory does not hold this; use a smaller batch_size ({text[:200]})")
    if isinstance(error, OSError) or "Unable to initialize backend" in text:
        return _failed(1, text)
    raise error


def _failed(code: int, message: object) -> int:
    print(f"expressnet: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
