"""The data sets that can be prepared. Their modules load only when asked for: listing names must not cost seconds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from data_pipelines.common.errors import UsageError
from data_pipelines.common.text import nearest

if TYPE_CHECKING:
    from data_pipelines.builders.base import FaceBuilder

#: Data set name -> its class in the module of the same name.
BUILDERS = {
    "fer2013": "Fer2013",
    "ferplus": "FerPlus",
    "rafdb": "RafDb",
    "affectnet": "AffectNet",
    "folder": "Folder",
    "synthetic_faces": "SyntheticFaces",
}


def builder_class(name: str) -> type[FaceBuilder]:
    """The builder class of a data set. Raises UsageError that offers the nearest name if there is none."""
    if name not in BUILDERS:
        own = "and your own under the names that you gave them (data prepare folder --name NAME)"
        known = f"{', '.join(BUILDERS)}, {own}{nearest(name.lower(), BUILDERS)}"
        raise UsageError(f"there is no data set {name!r}; known: {known}")
    builder: type[FaceBuilder] = getattr(importlib.import_module(f"{__name__}.{name}"), BUILDERS[name])
    return builder
