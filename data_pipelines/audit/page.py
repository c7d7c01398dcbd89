"""A report of `audit` as one HTML file: it needs no network and no script, and shows example pictures of each finding.

The names in it come from strangers' files: all text passes `_text`.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from data_pipelines import hashing, pictures
from data_pipelines.audit import audit
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import LONG, SHORT, shown

GROUPS = 12  # of each kind of group, so that the page stays at a few MB
IN_GROUP = 6
SINGLES = 24  # of each finding in single pictures
_SIDE = 96  # pixels of the pictures on the page

_Key = tuple[str, str]  # split and name of a picture
_MEANINGS = {
    "exact_duplicates": "These decode to the same pixels; a colour picture without any colour counts as grey.",
    "near_duplicates": (
        "Copies changed in brightness, size or compression, or cut by a little: their perceptual hashes differ in at "
        "most {max_bits} of 63 bits, and at most {max_difference:.0%} of the variance of one reduced to "
        f"{hashing.SIDE}x{hashing.SIDE} pixels is not explained by the other. Exact duplicates count as one."
    ),
    "mirrored": "Near duplicates of a picture's mirror image.",
    "blank": "Nothing to see: the standard deviation of the pixels is below {below:g} of 255 grey levels.",
    "odd_sizes": "More than half of all pictures have one size, and these have another.",
    "colour_without_colour": "Their red, green and blue are equal everywhere: grey pictures, stored as coloured ones.",
    "unusable": "These were left out.",
}
#: (in several splits, with several labels) -> heading.
_PARTS = {
    (True, True): "Groups across splits, with different labels",
    (True, False): "Groups across splits, with one label",
    (False, True): "Groups within a split, with different labels",
    (False, False): "Groups within a split, with one label",
}

_STYLE = """
:root { color-scheme: light dark; --ground: #fdfdfc; --text: #1d1d1f; --weak: #5c5c63; --line: #dcdce0;
  --box: #f2f2f0; --bar: #b9d3ee; --mark: #a02c1c; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --ground: #17181b; --text: #ececee; --weak: #a5a7ae; --line: #3a3c42;
  --box: #22242a; --bar: #2f4d6e; --mark: #ff9c8a; --link: #8fc1ff; } }
@media (max-width: 30rem) { table { font-size: .875rem; } th + th, td { padding-left: .6rem !important; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3, p, li, figcaption { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, ul { max-width: 46rem; } a { color: var(--link); } .weak { color: var(--weak); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem 0 .25rem 1.25rem; border-bottom: 1px solid var(--line); text-align: right; font-weight: normal;
  vertical-align: top; } thead th { color: var(--weak); }
td { white-space: nowrap; }
th:first-child { padding-left: 0; text-align: left; }
.bar { display: block; height: .35rem; border-radius: 2px; background: var(--bar); margin-left: auto; }
.groups { display: flex; flex-wrap: wrap; gap: .75rem; }
.group { display: flex; flex-wrap: wrap; gap: .5rem; padding: .5rem; border-radius: .5rem; background: var(--box); }
figure { margin: 0; width: 6rem; font-size: .75rem; line-height: 1.35; }
img, .gone { display: block; width: 6rem; height: 6rem; object-fit: contain; background: var(--line); }
.gone { display: grid; place-items: center; color: var(--weak); }
figcaption { margin-top: .25rem; } .name { color: var(--weak); }
.mark { color: var(--mark); font-weight: 600; } .more { align-self: center; padding: 0 .5rem; }
"""


def write(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes the page, completely or not at all; the same for the same report.

    The example pictures are read from where the report's were. Raises DataError if they, or the file, cannot be.
    """
    where = Path(path).expanduser()
    with _writing(where) as stream:
        stream.write(_page(report, _thumbnails(report)))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[io.TextIOBase]:
    """A text file beside `path` that takes its place in the end."""
    partial = path.with_name(f"{path.name}.part")
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is no file; give --html the name of a file")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); give --html another place") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _examples(report: dict[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]], int]]:
    """(finding, heading, examples to show, number of all such) of everything that was found."""
    for key in audit.DUPLICATES:
        for part, heading in _PARTS.items():
            groups = [one for one in report[key]["listed"] if part == (len(one["splits"]) > 1, len(one["labels"]) > 1)]
            if groups:
                yield key, heading, _spread(groups, GROUPS), len(groups)
    for key in audit.SINGLES:
        if report[key]["total"]:
            yield key, "", _spread(report[key]["listed"], SINGLES), report[key]["total"]


def _spread(items: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """At most so many of the items, from all over the list, which goes from class to class."""
    number = min(number, len(items))
    return [items[place * len(items) // number] for place in range(number)]


def _thumbnails(report: dict[str, Any]) -> dict[_Key, str]:
    """The examples' pictures as data: URIs, from a second look at the data set, which ends as soon as it has them."""
    waiting: dict[str, set[str]] = {split: set() for split in report["splits"]}
    for key, _, examples, _ in _examples(report):
        for example in examples if key != "unusable" else []:
            for one in example["pictures"][:IN_GROUP] if key in audit.DUPLICATES else [example]:
                waiting[one["split"]].add(one["name"])
    opened = audit.open_pictures(report["what"], report["data_dir"])
    found: dict[_Key, str] = {}
    for split, total in opened.splits.items():
        names = waiting.get(split)
        if not names:
            continue
        stream = opened.stream(split)
        for picture in tqdm(stream, f"page {split}", total, unit=" pictures", file=sys.stderr, disable=None):
            if picture.name in names:
                with contextlib.suppress(pictures.BadPicture):  # it has changed since
                    found[split, picture.name] = _thumbnail(picture.image)
                names.remove(picture.name)
                if not names:
                    break
    return found


def _thumbnail(data: bytes) -> str:
    image = pictures.decode(data)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)  # encoded anew: nothing else that the file may hold gets into the page
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _text(text: str, longest: int = SHORT) -> str:
    """Any text as HTML."""
    return html.escape(shown(text, longest))


def _page(report: dict[str, Any], thumbnails: dict[_Key, str]) -> str:
    title = f"Audit of {_text(report['what'])}"
    sections = [_section(report, key, thumbnails) for key in (*audit.DUPLICATES, *audit.SINGLES)]
    kind = "prepared data set" if report["kind"] == "prepared" else f"read as {_text(report['data_set'])}"
    notes = "".join(f"<li>{_text(note, LONG)}</li>" for note in report["notes"])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{report["all"]["pictures"]:,} pictures; {kind}, layout: {_text(report["layout"])}.
{_text(report["protocol"] or "", LONG)}</p>
{f"<ul>{notes}</ul>" if notes else ""}
</header>
<main>
{_overview(report)}
{_classes(report)}
{_pixels(report)}
{"".join(sections)}
</main>
</body>
</html>
"""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already; the first of each row is its head."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = ""
    for first, *cells in rows:
        body += f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>\n'
    return f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def _title(key: str) -> str:
    words = audit.DUPLICATES[key][0] if key in audit.DUPLICATES else audit.SINGLES[key]
    return words.capitalize()


def _overview(report: dict[str, Any]) -> str:
    rows = []
    for key in (*audit.DUPLICATES, *audit.SINGLES):
        kind = report[key]
        grouped = key in audit.DUPLICATES
        across = sum(leak["pictures"] for leak in kind["leaks"]) if grouped else None
        found = kind["pictures"] if grouped else kind["total"]
        name = _title(key)
        rows.append(
            [
                f'<a href="#{key}">{name}</a>' if found else name,
                f"{found:,}",
                f"{kind['total']:,}" if grouped else "",
                f"{kind['conflicting']:,}" if grouped else "",
                f"{across:,}" if grouped else "",
            ]
        )
    head = ["finding", "pictures", "groups", "labels differ", "across splits"]
    return f"<h2>What was found</h2>\n{_table(head, rows)}" + (
        '<p class="weak">Duplicates are counted as the pictures beyond the first of each group; across splits, as the '
        "pictures of the later split that are in an earlier one as well.</p>\n"
    )


def _classes(report: dict[str, Any]) -> str:
    splits = report["splits"]
    rows = []
    for label in report["all"]["classes"]:
        cells = []
        for numbers in splits.values():
            share = numbers["classes"][label] / max(1, numbers["pictures"])
            widest = max(numbers["classes"].values()) / max(1, numbers["pictures"])
            width = 100 * share / widest if widest else 0
            bar = f'<span class="bar" style="width:{width:.1f}%"></span>'
            cells.append(f"{numbers['classes'][label]:,} <span class=weak>({share:.1%})</span>{bar}")
        rows.append([_text(label), *cells])
    ratios = [f"{split['imbalance']:.1f}" if split["imbalance"] else "-" for split in splits.values()]
    totals = [["all", *(f"{split['pictures']:,}" for split in splits.values())], ["largest : smallest", *ratios]]
    return f"<h2>Classes</h2>\n{_table(['class', *map(_text, splits)], rows + totals)}"


def _pixels(report: dict[str, Any]) -> str:
    names = ("red", "green", "blue") if len(report["all"]["channels"]) == 3 else ()
    parts = {**report["splits"], "all": report["all"]}
    rows = [["pictures in grey"], ["pictures in colour"], ["mean"], ["standard deviation"]]
    rows += [[f"{what}, {name}"] for name in names for what in ("mean", "standard deviation")]
    for numbers in parts.values():
        grey = numbers["grey"] + numbers["colour_without_colour"]
        cells = [f"{grey:,}", f"{numbers['colour']:,}", *(audit.decimal(numbers[key]) for key in ("mean", "deviation"))]
        for place in range(len(names)):
            # a split without colour has one channel, which stands for three
            channel = numbers["channels"][min(place, len(numbers["channels"]) - 1)]
            cells += [audit.decimal(channel["mean"]), audit.decimal(channel["deviation"])]
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return (
        f"<h2>Pixels and sizes</h2>\n{_table(['pixels, 0 to 1', *map(_text, parts)], rows)}"
        f"<p>Sizes: {audit.sizes(report)}.</p>\n"
    )


def _section(report: dict[str, Any], key: str, thumbnails: dict[_Key, str]) -> str:
    kind = report[key]
    parts = [entry for entry in _examples(report) if entry[0] == key]
    if not parts:
        return ""
    text = f'<section>\n<h2 id="{key}">{_title(key)}: '
    text += f"{kind['pictures'] if key in audit.DUPLICATES else kind['total']:,}</h2>\n"
    text += f"<p>{_MEANINGS[key].format(**kind)}</p>\n"
    if key in audit.DUPLICATES:
        text += "".join(f"<p>{_text(line)}.</p>\n" for line in audit.leaks(kind, audit.DUPLICATES[key][1]))
    for _, heading, examples, total in parts:
        of = f"{len(examples):,} of {total:,}" if len(examples) < total else f"all {total:,}"
        listed = f" among the first {kind['cap']:,} groups" if heading and kind["total"] > kind["cap"] else ""
        text += f"<h3>{heading} ({of}{listed})</h3>\n" if heading else f"<p>Shown: {of}.</p>\n"
        if key == "unusable":
            text += f"<ul>{''.join(f'<li>{_text(audit.detail(one))}</li>' for one in examples)}</ul>\n"
        elif heading:
            text += f'<div class="groups">\n{"".join(_group(group, thumbnails) for group in examples)}</div>\n'
        else:
            figures = "".join(_figure(one, thumbnails) for one in examples)
            text += f'<div class="groups">\n{figures}</div>\n'
    return f"{text}</section>\n"


def _group(group: dict[str, Any], thumbnails: dict[_Key, str]) -> str:
    conflict = len(group["labels"]) > 1
    figures = "".join(_figure(one, thumbnails, conflict) for one in group["pictures"][:IN_GROUP])
    more = group["size"] - min(IN_GROUP, len(group["pictures"]))
    rest = f'<span class="more weak">and {more:,} more</span>' if more else ""
    return f'<div class="group">\n{figures}{rest}</div>\n'


def _figure(one: dict[str, Any], thumbnails: dict[_Key, str], conflict: bool = False) -> str:
    split, label, name = (_text(one[key]) for key in ("split", "label", "name"))
    size = f" {one['width']}x{one['height']}" if "width" in one else ""
    source = thumbnails.get((one["split"], one["name"]))
    picture = f'<img src="{source}" alt="{name}: {label}, {split}">' if source else '<span class="gone">gone</span>'
    mark = f'<span class="mark">{label}</span>' if conflict else label
    breakable = name.replace("/", "/<wbr>").replace("_", "_<wbr>")
    caption = f'{split}, {mark}{size}<br><span class="name">{breakable}</span>'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n"
