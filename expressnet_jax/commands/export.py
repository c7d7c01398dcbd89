"""Make a folder that applications load from a run's best checkpoint.

example: expressnet export --workdir runs/small --formats stablehlo,onnx --out artifacts/small
"""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--workdir", required=True, type=common.path, help="the folder of a run")
    parser.add_argument("--out", required=True, type=common.path, help="the artifact's folder")
    parser.add_argument("--formats", default="safetensors", help="some of safetensors,stablehlo,onnx,savedmodel,web")
    parser.add_argument("--step", type=int, help="export this checkpoint, not the best")
    parser.add_argument("--raw", action="store_true", help="the last step's weights, not those averaged over steps")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the stored weights")
    parser.add_argument("--quantize", choices=("float16", "int8"), help="a further ONNX file in lower precision")
    calibrated = "divide the logits by the temperature that the held-out examples ask for (default: yes)"
    parser.add_argument("--calibrated", action=BooleanOptionalAction, default=True, help=calibrated)
    package = "for web: what `npm pack onnxruntime-web@VERSION` leaves (default: the one here)"
    parser.add_argument("--onnxruntime_web", type=common.path, metavar="FILE", help=package)
    parser.add_argument("--data_dir", type=common.local, help=common.DATA_DIR)
    parser.add_argument("--overwrite", action="store_true", help="replace an artifact that is there")


def run(options: Namespace) -> common.Result:
    """Exports a run, and shows what has been made; the exporter says what it does."""
    import expressnet_jax

    common.start_jax()
    found = expressnet_jax.export(
        options.workdir, options.out, options.formats, raw=options.raw, dtype=options.dtype,
        step=options.step, quantize=options.quantize, data_dir=options.data_dir, overwrite=options.overwrite,
        calibrated=options.calibrated, onnxruntime_web=options.onnxruntime_web,
    )  # fmt: skip
    files = [f"  {name}  {size / 1e6:.2f} MB" for name, size in found["files"].items()]
    common.show(options, "\n".join([f"exported to {found['artifact']}", *files]))
    return found
