"""The arguments of the command line: what each command takes, and the settings of a config among them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

_EXAMPLES = {
    "train": "expressnet train --config=fer2013_small --workdir runs/small --config.batch_size=64",
    "evaluate": "expressnet evaluate --workdir runs/small --data fer2013 --split public_test",
    "inspect": "expressnet inspect --config=fer2013:paper --config.moe.num_experts=8",
    "plan": "expressnet plan --config=fer2013:paper --config.batch_size=256 --topology v5e:2x2 --plot scaling.png",
    "ablate": "expressnet ablate --config=fer2013_small --sweep 'moe.num_experts=1,2,4;moe.top_k=1,2' --out studies/e",
    "report": "expressnet report runs/small runs/eight --out report.html --tables tables",
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
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is no folder; mount the bucket (GCS FUSE does) and name that folder")
    return Path(text).expanduser()


def parser() -> argparse.ArgumentParser:
    """All commands. They import what they need when they run: `--help` waits for no JAX."""
    from expressnet_jax.commands import ablate as cli_ablate
    from expressnet_jax.commands import plan as cli_plan

    parser = _Parser(prog="expressnet", description="ExpressNet-MoE: facial-expression recognition in JAX.")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="train|evaluate|ablate|report|inspect|plan|export|predict|bench|data"
    )

    def command(parent: Any, name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = parent.add_parser(
            name, help=text, description=text, epilog=f"example: {_EXAMPLES[name]}", allow_abbrev=False
        )
        made.add_argument("--json", action="store_true", help="print one JSON document on standard output")
        return made

    config = "a packaged config or a file, with a recipe after a colon; --config.KEY=VALUE changes one setting"
    data_dir = "where prepared data sets lie (default: TensorFlow Datasets' own folder)"
    distributed = "be one of several processes of a job: under srun, on a TPU pod, by launch/local.sh (docs/scaling.md)"
    train = command(commands, "train", "Train a network; the same command resumes an interrupted run.")
    train.add_argument("--config", required=True, help=config)
    train.add_argument("--workdir", required=True, type=_path, help="the folder of this run")
    train.add_argument("--data_dir", help=data_dir)
    train.add_argument("--distributed", action="store_true", help=distributed)
    evaluate = command(commands, "evaluate", "Evaluate the best checkpoint of a run.")
    evaluate.add_argument("--workdir", required=True, type=_path, help="the folder of a run")
    evaluate.add_argument("--data", help="another prepared data set; classes are matched by name")
    evaluate.add_argument("--split", help="default: the test split that the run's config names")
    evaluate.add_argument("--robustness", action="store_true", help="also under pose, occlusion, light, blur ...")
    evaluate.add_argument("--saliency", action="store_true", help="also what each branch of the network looks at")
    evaluate.add_argument("--data_dir", help=data_dir)
    evaluate.add_argument("--distributed", action="store_true", help=distributed)
    inspect = command(commands, "inspect", "Show the size and cost of a network, or what a run or an artifact holds.")
    inspect.add_argument(
        "path", nargs="*", type=_path, help="a run, RUN/checkpoints/STEP or an artifact; two are compared"
    )
    inspect.add_argument("--config", help=config)
    inspect.add_argument(
        "--selfcheck", action="store_true", help="with --config: check each way to reach the experts on these devices"
    )
    cli_plan.add(commands, command, config)
    cli_ablate.add(commands, command, config, data_dir, _path)
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
    bench.add_argument("--pairs", type=int, default=3, help="with --against: how often each of the two is measured")
    bench.add_argument("--repeats", type=int, default=5, help="runs of each median, after two that do not count")
    bench.add_argument("--hosts", type=int, default=1, help="input: the batch is shared out among so many hosts")
    bench.add_argument("--host", type=int, default=0, help="input: which of them to be, counted from 0")
    bench.add_argument("--step_ms", type=float, help="input: simulate what 1 to 256 hosts wait with steps as long")
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


def overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.key=value` and `--config.key value` out of the arguments."""
    from expressnet_jax.config import ConfigError

    rest, settings, waiting = [], [], list(arguments)
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
        settings.append((key, value))
    return rest, settings
