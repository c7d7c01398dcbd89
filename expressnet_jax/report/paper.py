"""The published figures of ExpressNet-MoE (arXiv 2510.13493 and its notebooks), beside runs of ours.

The published accuracies are of single runs, whose epoch was chosen on the very pictures that they are measured on.
"""

from typing import Any, NamedTuple

from data_pipelines.labels import EMOTIONS, SEVEN


class Published(NamedTuple):
    """What the authors report on one data set."""

    name: str
    data_set: str  # ours
    classes: int
    examples: int
    accuracy: float
    macro_f1: float
    per_class_f1: dict[str, float]


_SEVEN = dict(zip(SEVEN, (0.75, 0.63, 0.73, 0.88, 0.71, 0.68, 0.76), strict=True))
_EIGHT = dict(zip(EMOTIONS, (0.66, 0.72, 0.70, 0.71, 0.86, 0.62, 0.68, 0.77), strict=True))
_RAFDB = dict(zip(SEVEN, (0.78, 0.61, 0.63, 0.93, 0.80, 0.82, 0.84), strict=True))
_FER2013 = dict(zip(SEVEN, (0.59, 0.49, 0.40, 0.86, 0.60, 0.56, 0.73), strict=True))
PUBLISHED = (
    Published("AffectNet, 7 classes", "affectnet", 7, 4987, 0.7477, 0.73, _SEVEN),
    Published("AffectNet, 8 classes", "affectnet", 8, 5635, 0.7255, 0.72, _EIGHT),
    Published("RAF-DB", "rafdb", 7, 3068, 0.8429, 0.77, _RAFDB),
    Published("FER-2013", "fer2013", 7, 7178, 0.6466, 0.61, _FER2013),
)
#: Our splits that hold the pictures which the authors measured on.
_THEIR_SPLITS = {
    "affectnet": ("affectnet/train (held out)",),
    "rafdb": ("rafdb/test",),
    "fer2013": ("fer2013/test", "fer2013/public_test+private_test"),
}


def against(runs: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """For each published data set that a run is evaluated on: the published figures, and the runs' beside them.

    A row is `comparable` where the pictures are theirs and were not chosen on by us either; `why` says what differs.
    None where there is no such evaluation.
    """
    found = []
    for one in PUBLISHED:
        rows = [row for run in runs for made in run["evaluations"] if (row := _row(one, run, made)) is not None]
        figures = {key: getattr(one, key) for key in ("accuracy", "macro_f1", "examples")}
        about = {"data_set": one.name, "classes": list(one.per_class_f1), "published": figures}
        found += [{**about, "per_class_f1": one.per_class_f1, "rows": rows}] if rows else []
    return found or None


def _row(published: Published, run: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any] | None:
    if evaluation["split"].split("/")[0] != published.data_set or len(evaluation["classes"]) != published.classes:
        return None
    comparable, why = _comparable(published, evaluation)
    return {
        "run": run["name"] if run["arm"] is None else f"{run['arm']}, seed {run['seed']}",
        **{key: evaluation[key] for key in ("split", "examples", "accuracy", "macro_f1")},
        "per_class_f1": {name: values["f1"] for name, values in evaluation["per_class"].items()},
        "comparable": comparable,
        "why": why,
    }


def _comparable(published: Published, evaluation: dict[str, Any]) -> tuple[bool, str]:
    split, examples = evaluation["split"], evaluation["examples"]
    if _parts(split) not in map(_parts, _THEIR_SPLITS[published.data_set]) or examples != published.examples:
        return False, f"other pictures: {split} has {examples:,}, theirs were {published.examples:,}"
    if evaluation.get("chosen_on") is None:
        return True, "the same pictures; theirs chose the epoch, and whether they did here too is not known"
    if evaluation["chosen_on"]:
        return True, "the same pictures, and the epoch was chosen on them, as theirs was: neither is an honest estimate"
    return True, "the same pictures; their epoch was chosen on them, this one was not, which favours theirs"


def _parts(split: str) -> set[str]:
    """The splits that make up "data/a+b", whose order changes nothing."""
    return set(split.partition("/")[2].split("+"))
