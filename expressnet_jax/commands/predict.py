"""Name the expressions in pictures, folders, videos, or before a camera.

example: expressnet predict holiday/ --model artifacts/small --faces haar --csv faces.csv
"""

from argparse import ArgumentParser, Namespace

from data_pipelines.common.files import check_file, check_folder
from data_pipelines.common.text import say
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="picture, folder, pattern, video, or camera:0")
    parser.add_argument("--model", required=True, type=common.path, help="an artifact of `expressnet export`")
    parser.add_argument("--faces", metavar="DETECTOR", help="haar, yunet, blazeface, or none (default: as in training)")
    parser.add_argument("--faces_model", type=common.source, metavar="FILE", help=common.FACES_MODEL)
    parser.add_argument("--csv", type=common.path, metavar="FILE", help="a table with one row a face")
    parser.add_argument("--draw", type=common.path, metavar="DIR", help="copies with boxes and labels drawn in")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of a video: every N-th frame")
    parser.add_argument("--mirrored", action="store_true", help="average with the mirror image: twice the work")
    parser.add_argument("--batch", type=int, help="pictures that the device is given at once")


def run(options: Namespace) -> common.Result:
    """Predicts, writing each answer as soon as it is there; returns the exit code."""
    import warnings

    import expressnet_jax
    from expressnet_jax.predict import inputs, output

    if options.csv:
        check_file("--csv", options.csv)
    if options.draw:
        check_folder("--draw", options.draw)
    common.start_jax()
    warnings.showwarning = lambda message, *_, **__: say(f"expressnet: {message}")
    if options.batch is None and any(map(inputs.is_camera, options.paths)):
        options.batch = 4  # a face should not wait until many others have come
    model = expressnet_jax.load(
        options.model, faces=options.faces, faces_model=options.faces_model, batch_size=options.batch,
        mirrored=options.mirrored,
    )  # fmt: skip
    return output.run(
        model, options.paths, json=options.output, csv_file=options.csv, draw=options.draw,
        every=options.every,
    )  # fmt: skip
