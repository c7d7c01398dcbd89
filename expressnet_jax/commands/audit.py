"""Look for duplicates, leaks between splits, wrong labels and bad pictures.

example: expressnet data audit fer2013 --html fer2013.html
"""

from argparse import ArgumentParser, Namespace

from data_pipelines.common.files import check_file
from data_pipelines.common.text import say
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("what", metavar="NAME|PATH", help="a prepared data set, or pictures in any known layout")
    parser.add_argument("--data_dir", type=common.local, help=common.DATA_DIR)
    parser.add_argument("--html", type=common.path, metavar="FILE", help="also a page with examples of the findings")


def run(options: Namespace) -> common.Result:
    """Audits pictures, says what was found, and writes the page where one is wanted."""
    from data_pipelines.audit import audit, page

    if options.html:
        check_file("--html", options.html)
    report = audit.audit(options.what, data_dir=options.data_dir)
    say(audit.describe(report))
    if options.html:
        page.write(report, options.html)
        say(f"written to {options.html}")
    return report
