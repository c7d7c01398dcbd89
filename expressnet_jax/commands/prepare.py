"""Turn your own copy of a data set into the form that training reads.

example: expressnet data prepare fer2013 --from Downloads/fer2013.zip
"""

from argparse import ArgumentParser, Namespace

from data_pipelines.builders import BUILDERS
from data_pipelines.common.errors import UsageError
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("name", help=", ".join(BUILDERS))
    parser.add_argument(
        "--from", dest="source", type=common.source, help="folder, tar, zip, csv or parquet; nothing is downloaded"
    )
    parser.add_argument("--name", dest="own_name", type=common.source, help="what your own data set (folder) is called")
    parser.add_argument("--codes", metavar="NAME,NAME", help="the classes in the order of their numbers")
    parser.add_argument("--data_dir", type=common.local, help=common.DATA_DIR)
    parser.add_argument("--strict", action="store_true", help="refuse unreadable pictures instead of skipping them")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that was prepared before")
    parser.add_argument("--size", type=int, default=0, metavar="N", help="store N x N pixels (default: as found)")
    parser.add_argument("--faces", metavar="DETECTOR", help="cut out the faces, once: haar, yunet or blazeface")
    parser.add_argument("--faces_model", type=common.source, metavar="FILE", help=common.FACES_MODEL)
    parser.add_argument("--align", action="store_true", help="with --faces: turn the eyes level")
    parser.add_argument("--recrop", action="store_true", help="with --faces: cut aligned pictures out again")


def run(options: Namespace) -> common.Result:
    """Prepares a data set, and says what is in it and what was skipped."""
    from data_pipelines import prepare
    from data_pipelines.faces.crop import Faces

    faces = None
    if options.faces is not None:
        faces = Faces(options.faces, options.faces_model, options.align, options.recrop)
    elif options.faces_model or options.align or options.recrop:
        raise UsageError("--faces_model, --align and --recrop go with --faces DETECTOR")
    codes = () if options.codes is None else tuple(name.strip() for name in options.codes.split(","))
    if not all(codes):
        raise UsageError(f"--codes {options.codes!r} lacks a name; write NAME,NAME,... in the order of the numbers")
    report = prepare.prepare(
        options.name, options.source, data_dir=options.data_dir, strict=options.strict, overwrite=options.overwrite,
        side=options.size, faces=faces, codes=codes, own_name=options.own_name or "",
    )  # fmt: skip
    common.show(options, prepare.describe(report))
    return report
