"""The report's numbers as files: CSV in full precision for spreadsheets and programs, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.common.files import write_text
from expressnet_jax.config import ConfigError
from expressnet_jax.report import latex
from expressnet_jax.report.markup import get
from expressnet_jax.report.sections_run import all_evaluations
from expressnet_jax.report.sections_study import METRICS, published_rows, settings

#: What makes a cell a formula to spreadsheets (OWASP, "CSV Injection"), the signs of full width too. Where the locale
#: has a decimal comma, Excel parts lines at semicolons, in quotes or not, so that a cell can begin after each of them.
_SIGNS = r"=+\-@\uff1d\uff0b\uff0d\uff20"
_FORMULA = re.compile(rf"^(?=[{_SIGNS}\t\r\n])|;[\s\"]*(?=[{_SIGNS}])")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")

_Rows = Iterator[list[Any]]

#: Of an evaluation: column -> where its number lies.
_FIGURES: dict[str, tuple[str | int, ...]] = {
    "step": ("step",),
    "examples": ("examples",),
    "accuracy": ("accuracy",),
    "accuracy_low": ("accuracy_interval", 0),
    "accuracy_high": ("accuracy_interval", 1),
    "mean_class_accuracy": ("mean_class_accuracy",),
    "macro_f1": ("macro_f1",),
    "loss": ("loss",),
    "temperature": ("depth", "calibration", "temperature"),
    **{
        f"{key}_{when}": ("depth", "calibration", when, key)
        for when in ("before", "after")
        for key in ("ece", "nll", "brier")
    },
    **{f"flip_{key}": ("depth", "flip", key) for key in ("accuracy", "mean_class_accuracy", "macro_f1")},
    "flip_low": ("depth", "flip", "interval", 0),
    "flip_high": ("depth", "flip", "interval", 1),
    **{f"flip_{key}": ("depth", "flip", key) for key in ("difference", "mcnemar_p")},
    "leaked": ("depth", "duplicates", "leaked"),
    **{key: ("depth", "duplicates", key) for key in ("accuracy_leaked", "accuracy_without", "macro_f1_without")},
    **{
        f"votes_{key}": ("depth", "votes", key)
        for key in ("agreement_top", "cross_entropy", "kl", "mean_probability_of_majority", "spearman_entropy")
    },
    "robustness_mean_accuracy": ("robustness", "mean_accuracy"),
    "robustness_relative": ("robustness", "relative"),
}


def write_csv(report: dict[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """Writes each table of the report as <folder>/<table>.csv, one without rows too; what is missing is an empty cell.

    Texts stand in quotes, and what a spreadsheet would take for a formula gets an apostrophe in front. Raises
    ConfigError where a file cannot be written.
    """
    files = {}
    for name, (head, rows) in _TABLES.items():
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(head)
        writer.writerows([_plain(value) for value in row] for row in rows(report))
        files[f"{name}.csv"] = stream.getvalue()
    return _write(folder, files)


def write_latex(report: dict[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """Writes arms.tex and comparisons.tex (of a study), evaluations.tex, per_class.tex (a table for each evaluation)
    and published.tex, for the package booktabs; each is empty where the report has nothing of it.

    Raises ConfigError where a file cannot be written.
    """
    return _write(folder, {f"{name}.tex": text for name, text in latex.tables(report).items()})


def _write(folder: str | os.PathLike[str], files: dict[str, str]) -> list[Path]:
    where = Path(folder).expanduser()
    try:
        where.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            # A name of a file that is no text holds half characters, which no file can.
            write_text(where / name, content.encode("utf-8", "backslashreplace").decode())
    except OSError as error:
        raise ConfigError(f"{where}: cannot be written ({error.strerror or error}); choose another folder") from error
    return [where / name for name in files]


def _plain(value: Any) -> Any:
    """A cell as it goes into the file: numbers as they are, texts guarded, nothing for what is missing."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\g<0>'", value)


def _runs(report: dict[str, Any]) -> _Rows:
    for run in report.get("runs") or []:
        about = [run.get(key) for key in ("name", "path", "arm", "seed", "state", "why")]
        sizes = [run.get(key) for key in ("parameters", "flops_per_image")]
        training = [get(run, "training", key) for key in _TRAINING]
        yield [*about, settings(run.get("settings")), *sizes, *training]


_TRAINING = ("steps", "best_step", "best_epoch", "training_time", "images_per_second")


def _arms(report: dict[str, Any]) -> _Rows:
    for arm in get(report, "study", "arms") or []:
        about = [arm.get("name"), settings(arm.get("settings")), len(arm.get("runs") or [])]
        sizes = [arm.get(key) for key in ("done", "parameters", "flops_per_image", "images_per_second")]
        yield [*about, *sizes, *(get(arm, "metrics", key, *at) for key in METRICS for at in _SPREAD.values())]


_SPREAD: dict[str, tuple[str | int, ...]] = {
    "mean": ("mean",), "std": ("std",), "low": ("interval", 0), "high": ("interval", 1)
}  # fmt: skip


def _arm_values(report: dict[str, Any]) -> _Rows:
    for arm in get(report, "study", "arms") or []:
        for key in METRICS:
            for place, value in enumerate(get(arm, "metrics", key, "values") or []):
                yield [arm.get("name"), key, place, value]


def _comparisons(report: dict[str, Any]) -> _Rows:
    for one in get(report, "study", "comparisons") or []:
        ends = [get(one, "interval", end) for end in (0, 1)]
        names = [one.get(key) for key in ("arm", "baseline", "difference")]
        yield [*names, *ends, one.get("p_value"), one.get("verdict")]


def _mcnemar(report: dict[str, Any]) -> _Rows:
    for one in get(report, "study", "comparisons") or []:
        for test in one.get("mcnemar") or []:
            counts = [test.get(key) for key in ("seed", "only_arm", "only_baseline", "p_value")]
            yield [one.get("arm"), one.get("baseline"), *counts]


def _left_out(report: dict[str, Any]) -> _Rows:
    yield from ([one.get("arm"), one.get("why")] for one in get(report, "study", "left_out") or [])


def _agreement(report: dict[str, Any]) -> _Rows:
    for arm, layers in (get(report, "study", "agreement") or {}).items():
        yield from ([arm, layer, value] for layer, value in (layers or {}).items())


def _published(report: dict[str, Any]) -> _Rows:
    for data_set, row in published_rows(report):
        yield [data_set, *(row.get(key) for key in _BESIDE)]


def _published_classes(report: dict[str, Any]) -> _Rows:
    for data_set, row in published_rows(report):
        classes = (row.get("per_class_f1") or {}).items()
        yield from ([data_set, row.get("run"), row.get("split"), *pair] for pair in classes)


_BESIDE = ("run", "split", "examples", "accuracy", "macro_f1", "comparable", "why")


def _figures(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        yield [*where, *(get(one, *at) for at in _FIGURES.values())]


def _classes(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        for label, figures in (one.get("per_class") or {}).items():
            yield [*where, label, *(get(figures, key) for key in _CLASS)]


_CLASS = ("precision", "recall", "f1", "examples")


def _confusion(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        labels = one.get("classes") or []
        for true, counts in zip(labels, one.get("confusion") or [], strict=False):
            yield from ([*where, true, predicted, n] for predicted, n in zip(labels, counts, strict=False))


def _bins(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        for when in ("before", "after"):
            for each in get(one, "depth", "calibration", when, "bins") or []:
                yield [*where, when, *(each.get(key) for key in _BIN)]


_BIN = ("low", "high", "count", "confidence", "accuracy")


def _robustness(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        for name, curves in (get(one, "robustness", "corruptions") or {}).items():
            for place, strength in enumerate(get(one, "robustness", "strengths") or []):
                yield [*where, name, strength, get(curves, "accuracy", place), get(curves, "macro_f1", place)]


def _factors(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        for factor, values in (one.get("factors") or {}).items():
            for each in values or []:
                ends = [get(each, "interval", end) for end in (0, 1)]
                yield [*where, factor, *(each.get(key) for key in ("value", "examples", "accuracy")), *ends]


def _experts(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        for layer, found in (one.get("experts") or {}).items():
            for expert, load in enumerate(get(found, "load") or []):
                yield [*where, layer, expert, load, get(found, "importance", expert)]


def _expert_classes(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        for layer, found in (one.get("experts") or {}).items():
            for expert, counts in enumerate(get(found, "classes") or []):
                pairs = zip(one.get("classes") or [], counts, strict=False)
                yield from ([*where, layer, expert, label, count] for label, count in pairs)


def _layers(report: dict[str, Any]) -> _Rows:
    for where, one in all_evaluations(report):
        for layer, found in (one.get("experts") or {}).items():
            yield [*where, layer, *(get(found, key) for key in _LAYER)]


_INFORMATION = ("mutual_information", "mutual_information_by_chance", "normalized_mutual_information")
_LAYER = ("experts", "selected", "dead", "entropy", *_INFORMATION)


def _training(report: dict[str, Any]) -> _Rows:
    for run in report.get("runs") or []:
        for part in ("train", "validation"):
            for record in get(run, "training", part) or []:
                yield [run.get("name"), part, *(get(record, place) for place in range(4))]


_AT = ["run", "split"]
_FLOPS = "flops_per_image_all_experts"  # of computing all of them, however many are selected

#: File -> (its columns, its rows).
_TABLES: dict[str, tuple[list[str], Callable[[dict[str, Any]], _Rows]]] = {
    "runs": (
        ["run", "path", "arm", "seed", "state", "why", "settings", "parameters", _FLOPS, *_TRAINING],
        _runs,
    ),
    "arms": (
        ["arm", "settings", "planned", "done", "parameters", _FLOPS, "images_per_second"]
        + [f"{key}_{part}" for key in METRICS for part in _SPREAD],
        _arms,
    ),
    "arm_values": (["arm", "metric", "place", "value"], _arm_values),
    "comparisons": (["arm", "baseline", "difference", "low", "high", "p_value", "verdict"], _comparisons),
    "mcnemar": (["arm", "baseline", "seed", "only_arm", "only_baseline", "p_value"], _mcnemar),
    "left_out": (["arm", "why"], _left_out),
    "agreement": (["arm", "layer", "value"], _agreement),
    "published": (["data_set", *_BESIDE], _published),
    "published_classes": (["data_set", "run", "split", "class", "f1"], _published_classes),
    "evaluations": ([*_AT, *_FIGURES], _figures),
    "per_class": ([*_AT, "class", *_CLASS], _classes),
    "confusion": ([*_AT, "true", "predicted", "count"], _confusion),
    "calibration": ([*_AT, "scaling", *_BIN], _bins),
    "robustness": ([*_AT, "corruption", "strength", "accuracy", "macro_f1"], _robustness),
    "factors": ([*_AT, "factor", "value", "examples", "accuracy", "low", "high"], _factors),
    "layers": ([*_AT, "layer", *_LAYER], _layers),
    "experts": ([*_AT, "layer", "expert", "load", "importance"], _experts),
    "expert_classes": ([*_AT, "layer", "expert", "class", "count"], _expert_classes),
    "training": (["run", "part", "epoch", "loss", "accuracy", "macro_f1"], _training),
}
