"""`expressnet data prepare` and `expressnet data audit`."""

from __future__ import annotations

import argparse
from typing import Any

from data_pipelines.builders import BUILDERS
from data_pipelines.common.errors import UsageError
from expressnet_jax.commands import arguments


def add(commands: Any) -> None:
    """Adds both commands below `data`."""
    data = commands.add_parser("data", help="Data sets: prepare, audit.").add_subparsers(
        dest="command", required=True, metavar="prepare|audit"
    )
    parser = arguments.command(
        data, "prepare", "Turn your own copy of a data set into the form that training reads.", prepare,
        example="data prepare fer2013 --from Downloads/fer2013.zip",
    )  # fmt: skip
    parser.add_argument("name", help=", ".join(BUILDERS))
    parser.add_argument("--from", dest="source", help="a folder, tar, zip or csv; nothing is downloaded")
    arguments.add_data_dir(parser)
    parser.add_argument("--strict", action="store_true", help="refuse unreadable pictures instead of skipping them")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that was prepared before")
    size = "store square pictures with sides of N pixels (default: as found)"
    parser.add_argument("--size", type=int, default=0, metavar="N", help=size)
    parser.add_argument("--faces", metavar="DETECTOR", help="cut out the faces, once: haar, yunet or blazeface")
    parser.add_argument("--faces_model", metavar="FILE", help="model of yunet (.onnx) or blazeface (.tflite)")
    parser.add_argument("--align", action="store_true", help="with --faces: turn the eyes level")
    parser.add_argument("--recrop", action="store_true", help="with --faces: cut aligned pictures out again")

    parser = arguments.command(
        data, "audit", "Look for duplicates, leaks between splits, wrong labels and bad pictures.", audit,
        example="data audit fer2013 --html fer2013.html",
    )  # fmt: skip
    parser.add_argument("what", metavar="NAME|PATH", help="a prepared data set, or pictures in any known layout")
    arguments.add_data_dir(parser)
    page = "also write a page with examples of what was found"
    parser.add_argument("--html", type=arguments.path, metavar="FILE", help=page)


def prepare(options: argparse.Namespace) -> arguments.Result:
    """Prepares a data set, and says what is in it and what was skipped."""
    from data_pipelines import prepare
    from data_pipelines.common.text import say

    faces = None
    if options.faces:
        faces = prepare.Faces(options.faces, options.faces_model, options.align, options.recrop)
    elif options.faces_model or options.align or options.recrop:
        raise UsageError("--faces_model, --align and --recrop go with --faces DETECTOR")
    report = prepare.prepare(
        options.name, options.source, data_dir=options.data_dir, strict=options.strict, overwrite=options.overwrite,
        side=options.size, faces=faces,
    )  # fmt: skip
    say(prepare.describe(report))
    return report


def audit(options: argparse.Namespace) -> arguments.Result:
    """Audits pictures, says what was found, and writes the page where one is wanted."""
    from data_pipelines.audit import audit, page
    from data_pipelines.common.text import say

    arguments.check_folder("--html", options.html)
    report = audit.audit(options.what, data_dir=options.data_dir)
    say(audit.describe(report))
    if options.html:
        page.write(report, options.html)
        say(f"written to {options.html}")
    return report
