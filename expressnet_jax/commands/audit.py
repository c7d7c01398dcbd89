"""Look for duplicates, leaks between splits, wrong labels and bad pictures.

example: expressnet data audit fer2013 --html fer2013.html
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from data_pipelines.common.files import check_file
from data_pipelines.common.text import say
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("what", metavar="NAME|PATH", help="a prepared data set, a run, or pictures in any layout")
    parser.add_argument("--data_dir", type=common.local, help=common.DATA_DIR)
    parser.add_argument("--html", type=common.path, metavar="FILE", help="also a page with examples of the findings")


def run(options: Namespace) -> common.Result:
    """Audits pictures, says what was found, and writes the page where one is wanted."""
    from data_pipelines.audit import audit, page
    from expressnet_jax.runs import folder as run_folder

    if options.html:
        check_file("--html", options.html)
    what, data_dir = options.what, options.data_dir
    if (Path(what).expanduser() / run_folder.CHECKPOINTS).is_dir():
        run = Path(what).expanduser()
        what, data_dir = run_folder.read_config(run).data.name, run_folder.data_dir(run, data_dir)
    report = audit.audit(what, data_dir=data_dir)
    common.show(options, audit.describe(report))
    if options.html:
        page.write(report, options.html)
        say(f"written to {options.html}")
    return report
