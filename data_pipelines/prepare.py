"""`data prepare`: from what a user has on disk to a TFDS data set, completely or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines import pictures, staging, stored
from data_pipelines.builders import BUILDERS, builder_class
from data_pipelines.common.errors import DataError, UsageError
from data_pipelines.common.files import check_folder, elsewhere, replace_folder, undecodable
from data_pipelines.common.tables import aligned
from data_pipelines.common.text import counted, nearest, reason
from data_pipelines.faces.crop import FaceCrop, Faces
from data_pipelines.sources import open_source

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

    from data_pipelines.builders.base import FaceBuilder, Form

_OWN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")  # as TFDS wants names
_SHOWN = 5  # skipped pictures that the text for people names


def prepare(
    name: str, source: str | None, *, data_dir: str | None = None, strict: bool = False, overwrite: bool = False,
    side: int = 0, faces: Faces | None = None, codes: Sequence[str] = (), own_name: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Turns the user's pictures into the data set `name`; run again after an interruption, it goes on.

    Args:
        name: a name of `data_pipelines.builders.BUILDERS`, with TFDS's `/config` where the data set has several.
        source: folder, archive or file with the pictures; None for a data set that is made here.
        data_dir: where data sets live; TFDS's own folder if None.
        strict: whether the first unusable picture is an error, instead of being left out and counted.
        overwrite: whether to replace the data set if it is there already.
        side: pictures are stored as squares of so many pixels; 0: as they are where they have one size.
        faces: how faces are cut out; None: pictures are kept whole.
        codes: the classes in the order of their numbers, for a source that numbers them.
        own_name: what a data set made of `folder` is called, there may be several.

    Returns:
        What `describe` prints: `name`, `layout`, `protocol`, `splits` {split: {`examples`, `classes` {name: count}}},
        `skipped` [{`path`, `why`}], `notes` [text], `already_prepared`, `data_dir` and `path`.

    Raises:
        DataError: nothing was written; the message says what to put right.
    """
    import tensorflow_datasets as tfds

    root = root_of(data_dir)
    if own_name:
        _check_own_name(name, own_name)
    cls, config = _find_class(name)
    if codes and not cls.TAKES_CODES:
        raise UsageError(f"--codes goes with data sets whose classes may be numbers in any order, not with {cls.name}")
    if cls.NEEDS_SOURCE and source is None:
        way = "say where your copy lies with --from PATH (folder, archive or file)"
        raise UsageError(f"{cls.name}: {way}; to get one: {cls.WHERE_TO_GET_IT}")
    if not cls.NEEDS_SOURCE and source is not None:
        raise UsageError(f"{cls.name} is made here and reads no files; leave out --from {source}")
    form = _form(side, faces)
    name = own_name or name
    target = _path(name, root)
    if os.path.isdir(target) and not overwrite:
        return _already_there(name, source, data_dir, strict, form, codes)
    check_folder("--data_dir" if data_dir else "TFDS_DATA_DIR", root)
    tfds.disable_progress_bar()  # ours counts pictures; TFDS's show its inner steps
    found = open_source(source) if source is not None else None
    task = {"source": found.fingerprint() if found else "", "form": form.describe(), "codes": list(codes)}
    with staging.workplace(root, name, task) as folder:
        whole = folder / "whole"
        builder = cls(
            source=found, strict=strict, form=form, staging=folder / "parts", codes=codes, own_name=own_name,
            data_dir=whole, config=config,
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints there, which belongs to --json
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        stored.write_list(_path(name, whole))
        replace_folder(_path(name, whole), target, aside=folder / "replaced")
    return _report(name, data_dir, already_prepared=False)


def _form(side: int, faces: Faces | None) -> Form:
    """Raises UsageError for a size that no picture has, and where the detector cannot be made."""
    from data_pipelines.builders.base import COMMON_SIDE, Form

    if side and not 8 <= side <= pictures.MAX_SIDE:
        raise UsageError(f"--size {side}: pictures are stored with 8 to {pictures.MAX_SIDE} pixels a side")
    return Form(side, FaceCrop(faces, side or COMMON_SIDE), faces.recrop) if faces else Form(side)


def read_info(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """The prepared data set `name` as a TFDS builder: `info.features`, `info.metadata`, `as_data_source(...)`.

    Raises DataError with the command to run if it is not prepared, not readable, or lacks a part of its files.
    """
    import tensorflow_datasets as tfds

    root = root_of(data_dir)
    if _may_be_own(name) and not _path(name, root).is_dir():
        raise DataError(_no_own(name, root))
    cls, _ = _find_class(name, root)
    path, over = _path(name, root), again(name, data_dir)
    if not os.path.isdir(path):
        where = f" (where to get it: {cls.WHERE_TO_GET_IT})" if cls.WHERE_TO_GET_IT else ""
        raise DataError(f"{name} is not prepared in {path}; run: {again(name, data_dir, overwrite=False)}{where}")
    try:
        builder = tfds.builder_from_directory(str(path))
        complete = {"layout", "form"} <= (builder.info.metadata or {}).keys()
    except Exception as error:  # TFDS has no common type for a damaged folder
        raise DataError(f"{path}: cannot be read ({reason(error)}); run: {over}") from error
    if not complete:
        raise DataError(f"{path}: was not prepared by this version of the project; run: {over}")
    if why := stored.problem(path):
        raise DataError(f"{why}; run: {again(name, data_dir, metadata=builder.info.metadata)}")
    return builder


def again(name: str, data_dir: str | None, *, overwrite: bool = True, metadata: Mapping[str, Any] | None = None) -> str:
    """The command that prepares a data set, in place of what is there, with the options that `metadata` remembers."""
    own = name.partition("/")[0] not in BUILDERS
    known = metadata or {}
    words = ["expressnet data prepare", *(["folder --name"] if own else []), name]
    if own or _find_class(name)[0].NEEDS_SOURCE:
        words += ["--from", shlex.quote(known["source"]) if known.get("source") else "PATH"]
    words += [f"--codes {shlex.quote(','.join(known['codes']))}"] if known.get("codes") else []
    words += _form_options(known["form"]) if known else []
    words += [f"--data_dir {shlex.quote(str(data_dir))}"] if data_dir else []
    return " ".join([*words, *(["--overwrite"] if overwrite else [])])


def _form_options(form: dict[str, Any]) -> list[str]:
    """The options that give pictures this form."""
    detector, _, how = form["faces"].partition(", ")
    options = [f"--size {form['side']}"] * bool(form["side"])
    if detector:
        model = [] if detector == "haar" else ["--faces_model FILE"]
        options += [
            f"--faces {detector}",
            *model,
            *(["--align"] * how.startswith("eyes")),
            *(["--recrop"] * form["recrop"]),
        ]
    return options


def describe(report: dict[str, Any]) -> str:
    """A report of `prepare` for people: a table of splits and classes, what was skipped, where the data lie."""
    state = "was already prepared from the same data, nothing to do" if report["already_prepared"] else "prepared"
    rows = [["split", "examples", *next(iter(report["splits"].values()))["classes"]]]
    for split, numbers in report["splits"].items():
        rows.append([split, *(f"{number:,}" for number in (numbers["examples"], *numbers["classes"].values()))])
    lines = [f"{report['name']} {state} (layout: {report['layout']})", *(f"  {line}" for line in aligned(rows))]
    skipped = report["skipped"]
    lines += [f"skipped: {len(skipped):,}", *(f"  {entry['path']}: {entry['why']}" for entry in skipped[:_SHOWN])]
    if len(skipped) > _SHOWN:
        lines.append(f"  and {len(skipped) - _SHOWN:,} more")
    if faces := report["faces"]:
        whole = counted(len(faces["whole"]), "picture")
        lines.append(f"faces: {faces['found']:,} cut out ({faces['detector']}); {whole} without one kept whole")
        lines += [f"  {path}" for path in faces["whole"][:_SHOWN]]
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join([*lines, report["protocol"], f"data: {report['path']}"])


def is_known(name: str, data_dir: str | None = None) -> bool:
    """Whether a name is that of a data set: one of the known ones, or one's own, prepared under a name of its own."""
    return name.partition("/")[0] in BUILDERS or (_may_be_own(name) and _path(name, root_of(data_dir)).is_dir())


def _may_be_own(name: str) -> bool:
    return name not in BUILDERS and bool(_OWN_NAME.fullmatch(name))


def _no_own(name: str, root: Path) -> str:
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    has = f"which has {', '.join(there)}" if there else "where nothing is" if root.is_dir() else "which is no folder"
    near = nearest(name.lower(), [*BUILDERS, *there])
    known = f"known: {', '.join(BUILDERS)}, and your own under the names that you gave them{near}"
    return f"no data set {name!r} is prepared in {root} (--data_dir), {has}; {known}"


def _check_own_name(name: str, own_name: str) -> None:
    if name != "folder":
        raise UsageError(f"--name goes with folder, your own pictures, not with {name}")
    if not _may_be_own(own_name):
        rule = "a name has at most 64 letters, digits and underscores, begins with a letter and is none of"
        raise UsageError(f"--name {own_name}: {rule} {', '.join(BUILDERS)}")


def _find_class(name: str, root: Path | None = None) -> tuple[type[FaceBuilder], str | None]:
    """The builder class and the configuration of `name` or `name/config`, or of one's own data set below `root`."""
    base, _, config = name.partition("/")
    own = root and _may_be_own(name) and _path(name, root).is_dir()
    cls = builder_class("folder" if own else base)
    configs = [known.name for known in cls.BUILDER_CONFIGS]
    if config and config not in configs:
        known = ", ".join(f"{base}/{known}" for known in configs) or base
        raise UsageError(f"there is no data set {name!r}; known: {known}")
    return cls, config or (configs[0] if configs else None)


def root_of(data_dir: str | None) -> Path:
    """Where data sets live. Raises UsageError for what is no path for TFDS; its own variable may hold anything."""
    from tensorflow_datasets.core import constants

    given = data_dir or constants.get_default_data_dir()
    if why := elsewhere(given) or undecodable(given):
        raise UsageError(f"{'--data_dir ' if data_dir else 'TFDS_DATA_DIR='}{why}")
    return Path(given).expanduser().absolute()


def _path(name: str, root: Path) -> Path:
    """TFDS's folder: <data_dir>/<name>[/<config>]/<version>."""
    own = name.partition("/")[0] not in BUILDERS
    cls, config = _find_class("folder" if own else name)
    return root.joinpath(name if own else cls.name, *([config] if config else []), str(cls.VERSION))


def _already_there(
    name: str, source: str | None, data_dir: str | None, strict: bool, form: Form, codes: Sequence[str]
) -> dict[str, Any]:
    """The report on a data set that exists. Raises DataError if it is not what is asked for now."""
    report = _report(name, data_dir, already_prepared=True)
    metadata = read_info(name, data_dir).info.metadata
    different = ""
    if source is not None and open_source(source).fingerprint() != metadata["fingerprint"]:
        different = f" prepared from {metadata['source']}, which differs from {source}"
    elif form.describe() != metadata["form"]:
        now, then = _form_text(form.describe()), _form_text(metadata["form"])
        different = f", stored in another form ({then}; asked for now: {now})"
    elif source is not None and list(codes) != metadata.get("codes", []):
        then, now = (
            f"--codes {','.join(names)}" if names else "no --codes" for names in (metadata.get("codes"), codes)
        )
        different = f", prepared with {then} (asked for now: {now})"
    if different:
        way_out = "add --overwrite to replace it, or choose another --data_dir"
        raise DataError(f"{report['path']} already holds {name}{different}; {way_out}")
    if strict and (skipped := report["skipped"]):
        without = f"{report['path']} was prepared without it ({len(skipped):,} skipped), which strict forbids"
        raise DataError(f"{skipped[0]['path']}: {skipped[0]['why']}; {without}")
    return report


def _form_text(form: dict[str, Any]) -> str:
    size = f"--size {form['side']}" if form["side"] else "sizes as found"
    return f"{size}, faces: {form['faces'] or 'not cut out'}{', --recrop' * form['recrop']}"


def _report(name: str, data_dir: str | None, already_prepared: bool) -> dict[str, Any]:
    info = read_info(name, data_dir).info
    numbers = {
        split: {"examples": info.splits[split].num_examples, "classes": counts}
        for split, counts in info.metadata["counts"].items()
    }
    kept = {key: info.metadata[key] for key in ("skipped", "faces", "notes")}
    head = {"name": name, "layout": info.metadata["layout"], "protocol": info.metadata["protocol"], "splits": numbers}
    where = {"data_dir": str(root_of(data_dir)), "path": str(info.data_dir)}
    return head | kept | {"already_prepared": already_prepared} | where
