"""One page about runs or a study: figures, intervals, pictures; no network.

example: expressnet report runs/small runs/eight --out report.html --tables tables
"""

from argparse import ArgumentParser, Namespace

from data_pipelines.common.files import check_file, check_folder
from expressnet_jax.commands import common


def add(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("path", nargs="+", type=common.path, help="folders of runs, or of one study")
    parser.add_argument("--out", required=True, type=common.path, help="the HTML file")
    parser.add_argument("--tables", type=common.path, metavar="DIR", help="also the same as CSV and LaTeX tables")
    parser.add_argument("--against", choices=("paper",), help="beside the published figures, with what is comparable")
    parser.add_argument("--no_pictures", action="store_true", help="leave photographs out, to share the page")


def run(options: Namespace) -> common.Result:
    """Makes the page of runs or of a study, and returns what is on it."""
    from expressnet_jax.report import collect, number_files, page

    common.on_cpu()
    check_file("--out", options.out)
    if options.tables:
        check_folder("--tables", options.tables)
    found = collect.document(options.path, against=options.against is not None, pictures=not options.no_pictures)
    page.write(found, options.out)
    common.show(options, f"written to {options.out}")
    if options.tables:
        number_files.write_csv(found, options.tables)
        number_files.write_latex(found, options.tables)
        common.show(options, f"tables in {options.tables}")
    return found
