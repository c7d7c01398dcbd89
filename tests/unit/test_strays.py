"""What lies beside a data set, in every layout of each: a picture or a table that is not used is named.

One stray file at a time is added to a drawn copy, where people leave such files: at the top, in a folder of its own,
beside the pictures that are used. It has to be used, or to be in a note or among what was skipped.
"""

import posixpath
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_pipelines.builders.affectnet import AffectNet
from data_pipelines.builders.base import FaceBuilder, left_over
from data_pipelines.builders.fer2013 import Fer2013
from data_pipelines.builders.ferplus import FerPlus
from data_pipelines.builders.folder import Folder
from data_pipelines.builders.rafdb import RafDb
from data_pipelines.sources import open_source
from tests.disk import write
from tests.unit import test_affectnet_builder as affectnet
from tests.unit import test_fer2013_builder as fer2013
from tests.unit import test_ferplus_builder as ferplus
from tests.unit import test_rafdb_builder as rafdb

Files = Mapping[str, bytes | str]
COPIES: dict[str, tuple[type[FaceBuilder], Files]] = {
    "fer2013, csv": (Fer2013, {"fer2013.csv": fer2013.table()}),
    "fer2013, folders": (Fer2013, fer2013.folders()),
    "ferplus, csv": (FerPlus, {"fer2013new.csv": ferplus.votes(), "fer2013.csv": ferplus.pixels()}),
    "ferplus, folders": (FerPlus, {"fer2013new.csv": ferplus.votes(), **ferplus.folders()}),
    "rafdb, official": (RafDb, rafdb.official("basic/")),
    "rafdb, class folders": (RafDb, rafdb.kaggle(csv=False)),
    "rafdb, tables": (RafDb, rafdb.kaggle()),
    "affectnet, older": (AffectNet, affectnet.older()),
    "affectnet, newer": (AffectNet, affectnet.newer()),
    "affectnet, subset": (AffectNet, affectnet.subset()),
    "folder, classes": (Folder, {f"train/{name}/{n}.png": rafdb.encode(n) for n, name in enumerate("abc")}),
    "folder, table": (Folder, {"list.csv": "path,label\nx/1.png,a\nx/2.png,b", "x/1.png": rafdb.encode(1),
                               "x/2.png": rafdb.encode(2)}),
}  # fmt: skip


def beside(files: Files) -> str:
    """The folder of the copy's last picture."""
    pictures = [name for name in files if name.lower().endswith((".png", ".jpg", ".bmp", ".tif"))]
    return posixpath.dirname(pictures[-1]) if pictures else "pictures"


@pytest.mark.parametrize("place", ["", "extra", "beside"])
@pytest.mark.parametrize("what", ["picture", "table"])
@pytest.mark.parametrize("copy", COPIES)
def test_a_stray_file_is_used_or_named(copy: str, what: str, place: str, tmp_path: Path) -> None:
    cls, files = COPIES[copy]
    folder = beside(files) if place == "beside" else place
    name = posixpath.join(folder, "stray.png" if what == "picture" else "stray.csv")
    content: bytes | str = rafdb.encode(29) if what == "picture" else "name,note\na,b\n"
    source = open_source(write(tmp_path / "copy", {**files, name: content}))
    builder = cls(data_dir=str(tmp_path / "no data"))
    plan = builder.plan(source)
    used = [picture.name for split in plan.splits.values() for picture in split.pictures()]
    said = [*plan.notes, *left_over(source, builder.skipped)]
    said += [f"{entry['path']}: {entry['why']}" for entry in builder.skipped.entries]
    assert any("stray." in text for text in [*used, *said]), said
