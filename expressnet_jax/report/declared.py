"""The report's tables, each declared once: what its columns are called in a CSV file and on a page, where their values
lie, and how these are shown. `tables` writes them as files, the templates show them.

Parts of a document may be missing at any depth.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from data_pipelines.common.pages import Cell, Grid, get
from expressnet_jax.ablation import shapes

Row = dict[str, Any]  # what a table's columns look at
Part = tuple[Row, Any]  # the names that tell a part of the document from the others, and the part


class Column(NamedTuple):
    """A column.

    csv: its name in the CSV file, or several for the parts of one value, such as an interval's; "" where it has none.
    title: its head on the page and in LaTeX; "" where it has none.
    form: how its values are shown (`pages.Cell`).
    at: where the value lies, as keys with dots between them; by default under the CSV name; "." for the whole row.
    only: "page" or "latex", where it stands in one of the two alone.
    missing: what the page says instead of a missing text.
    """

    csv: str = ""
    title: str = ""
    form: str = "text"
    at: str = ""
    only: str = "page latex"
    missing: str | None = None

    def value(self, row: Row) -> Any:
        at = self.at or self.csv
        return row if at == "." else get(row, *at.split("."))

    def cell(self, row: Row) -> Cell:
        value = self.value(row)
        return Cell(self.missing if value is None else value, self.form)

    def plain(self, row: Row) -> list[Any]:
        """A value for each of the CSV names."""
        value, names = self.value(row), self.csv.split()
        if self.form == "spread":
            value = [*(get(value, key) for key in ("mean", "std")), *(get(value, "interval", end) for end in (0, 1))]
        return [get(value, place) for place in range(len(names))] if len(names) > 1 else [value] * len(names)


class Table:
    """A table. of: the rows of a part of the report; parts: the parts that have some."""

    def __init__(
        self, of: Callable[[Any], Iterable[Row]], parts: Callable[[Row], Iterable[Part]], *columns: Column
    ) -> None:
        self.of, self.parts, self.columns = of, parts, columns

    def rows(self, report: Row) -> Iterator[Row]:
        """All rows of a report."""
        return ({**row, **names} for names, part in self.parts(report) for row in self.of(part))

    def shown(self, where: str) -> list[Column]:
        """The columns of the page, or of LaTeX."""
        return [column for column in self.columns if column.title and where in column.only]

    def grid(self, part: Any) -> Grid:
        """The rows of a part for the page."""
        columns = self.shown("page")
        cells = [[column.cell(row) for column in columns] for row in self.of(part)]
        return Grid([column.title for column in columns], cells)


_FLOPS = "flops_per_image_all_experts"  # of computing all of them, however many are selected
#: Of an arm's runs: key in the document -> name on the page.
METRICS = {"accuracy": "accuracy", "mean_class_accuracy": "mean class accuracy", "macro_f1": "macro F1", "ece": "ECE"}


def settings(found: dict[str, Any] | None) -> str | None:
    """All settings in one line, as they are written on the command line; None where there are none."""
    texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in (found or {}).items()}
    return ", ".join(f"{key}={value}" for key, value in texts.items()) or None


def _whole(report: Row) -> Iterator[Part]:
    yield {}, report


def _study(report: Row) -> Iterator[Part]:
    yield {}, report.get("study") or {}


def _evaluations(report: Row) -> Iterator[Part]:
    for run in report.get("runs") or []:
        for one in run.get("evaluations") or []:
            yield {"run": run.get("name"), "split": one.get("split")}, one


def _papers(report: Row) -> Iterator[Part]:
    return (({"data_set": paper.get("data_set")}, paper) for paper in report.get("against") or [])


def layers(one: Row) -> Iterator[Row]:
    """The layers of experts of an evaluation, each with its name and the names of the classes."""
    for layer, found in (one.get("experts") or {}).items():
        yield {**(found or {}), "layer": layer, "labels": one.get("classes") or []}


def _layers(report: Row) -> Iterator[Part]:
    for names, one in _evaluations(report):
        yield from (({**names, "layer": layer["layer"]}, layer) for layer in layers(one))


def _of_runs(report: Row) -> Iterator[Row]:
    return ({**run, "settings": settings(run.get("settings"))} for run in report.get("runs") or [])


def _of_all_evaluations(report: Row) -> Iterator[Row]:
    """Every evaluation with what the page says of its run; a run without any has a row too, for the page."""
    for place, run in enumerate(report.get("runs") or []):
        about = {"link": {"id": f"run-{place}", "name": run.get("name")}}
        about |= {key: run.get(key) for key in ("arm", "seed", "state")}
        for one in run.get("evaluations") or [{}]:
            yield {**one, **about}


def _of_arms(study: Row) -> Iterator[Row]:
    for arm in study.get("arms") or []:
        yield {**arm, "settings": settings(arm.get("settings")), "planned": len(arm.get("runs") or [])}


def _of_arm_values(study: Row) -> Iterator[Row]:
    for arm in study.get("arms") or []:
        for key in METRICS:
            for place, value in enumerate(get(arm, "metrics", key, "values") or []):
                yield {"arm": arm.get("name"), "metric": key, "place": place, "value": value}


def _of_mcnemar(study: Row) -> Iterator[Row]:
    for one in study.get("comparisons") or []:
        names = {"arm": one.get("arm"), "baseline": one.get("baseline")}
        yield from ({**test, **names} for test in one.get("mcnemar") or [])


def _of_agreement(study: Row) -> Iterator[Row]:
    for arm, layers in (study.get("agreement") or {}).items():
        yield from ({"arm": arm, "layer": layer, "value": value} for layer, value in (layers or {}).items())


def _of_paper(paper: Row) -> Iterator[Row]:
    """The authors' figures, then those beside them."""
    published = {**(paper.get("published") or {}), "per_class_f1": paper.get("per_class_f1")}
    yield {"run": "published", **published, "words": "the authors' own figures"}
    yield from ({**row, "words": row.get("why")} for row in paper.get("rows") or [])


def _of_published_classes(paper: Row) -> Iterator[Row]:
    for row in _of_paper(paper):
        for name, f1 in (row.get("per_class_f1") or {}).items():
            yield {"run": row.get("run"), "split": row.get("split"), "class": name, "f1": f1}


def _of_classes(one: Row) -> Iterator[Row]:
    for name, found in (one.get("per_class") or {}).items():
        # 0 of 0 counts as 0 in the means, but in a table for people it would read as a failure.
        recall = None if get(found, "examples") == 0 else get(found, "recall")
        yield {**(found or {}), "class": name, "known_recall": recall}


def _of_confusion(one: Row) -> Iterator[Row]:
    labels = one.get("classes") or []
    for true, counts in zip(labels, one.get("confusion") or [], strict=False):
        for predicted, count in zip(labels, counts, strict=False):
            yield {"true": true, "predicted": predicted, "count": count}


def _of_scores(one: Row) -> Iterator[Row]:
    for when in ("before", "after"):
        if found := get(one, "depth", "calibration", when):
            yield {**found, "scaling": f"{when} scaling"}


def _of_bins(one: Row) -> Iterator[Row]:
    for when in ("before", "after"):
        yield from ({**each, "scaling": when} for each in get(one, "depth", "calibration", when, "bins") or [])


def _of_robustness(one: Row) -> Iterator[Row]:
    for name, curves in (get(one, "robustness", "corruptions") or {}).items():
        for place, strength in enumerate(get(one, "robustness", "strengths") or []):
            figures = {key: get(curves, key, place) for key in ("accuracy", "macro_f1")}
            yield {"corruption": name, "strength": strength, **figures}


def _of_factors(one: Row) -> Iterator[Row]:
    for factor, values in (one.get("factors") or {}).items():
        yield from ({**each, "factor": factor} for each in values or [])


def _of_experts(layer: Row) -> Iterator[Row]:
    loads = layer.get("load") or []
    widest = max((load or 0 for load in loads), default=0) or 1
    for expert, load in enumerate(loads):
        share = {"value": load, "share": (load or 0) / widest}
        more = {key: get(layer, key, expert) for key in ("first", "importance")}
        yield {"expert": expert, "load": load, "share": share} | more


def _of_expert_classes(layer: Row) -> Iterator[Row]:
    for expert, counts in enumerate(layer.get("classes") or []):
        for name, count in zip(layer["labels"], counts, strict=False):
            yield {"expert": expert, "class": name, "count": count}


def _of_surest(layer: Row) -> Iterator[Row]:
    for expert, pictures in enumerate(layer.get("surest") or []):
        for one in pictures or []:
            true = None if one.get("label") is None else get(layer["labels"], one["label"])
            yield {**one, "expert": expert, "class": true}


def _of_training(run: Row) -> Iterator[Row]:
    for part in ("train", "validation"):
        for record in get(run, "training", part) or []:
            keys = ("epoch", "loss", "accuracy", "macro_f1")
            yield {"part": part, **{key: get(record, place) for place, key in enumerate(keys)}}


def _training(report: Row) -> Iterator[Part]:
    return (({"run": run.get("name")}, run) for run in report.get("runs") or [])


def _csv(names: str, path: str = "", name: str = "{}") -> list[Column]:
    """Columns of the CSV file alone, whose values lie under one path."""
    return [Column(name.format(key), at=f"{path}.{key}" if path else key) for key in names.split()]


#: Tables that have a CSV file of their name, in the order in which they are written.
FILES: dict[str, Table] = {
    "runs": Table(_of_runs, _whole,
        Column("run", at="name"), *_csv("path arm seed state why settings parameters"),
        Column(_FLOPS, at="flops_per_image"),
        *_csv("steps best_step best_epoch training_time images_per_second", "training")),
    "arms": Table(_of_arms, _study,
        Column("arm", "arm", at="name"), Column("settings", "settings", only="page", missing="as in the config"),
        *_csv("planned done"), Column("parameters", "parameters", "count"),
        Column(_FLOPS, "GFLOP an image", "giga", "flops_per_image"), Column("images_per_second"),
        Column("", "seeds done", "done", "."),
        *(Column(f"{key}_mean {key}_std {key}_low {key}_high", f"{name}, %", "spread", f"metrics.{key}")
          for key, name in METRICS.items()),
        Column("", "images/s", "rate", "images_per_second", only="page")),
    "arm_values": Table(_of_arm_values, _study, *_csv("arm metric place value")),
    "comparisons": Table(lambda study: study.get("comparisons") or [], _study,
        Column("arm", "arm"), Column("baseline", "baseline", only="page"),
        Column("difference", "difference, points", "points"),
        Column("low high", "interval, points", "points", "interval"), Column("p_value", "p", "p"),
        Column("verdict", "verdict", missing="no verdict")),
    "mcnemar": Table(_of_mcnemar, _study,
        Column("arm", "arm"), Column("baseline", "baseline"), Column("seed", "seed", "plain"),
        Column("only_arm", "right only in the arm", "count"),
        Column("only_baseline", "right only in the baseline", "count"), Column("p_value", "p", "p")),
    "left_out": Table(lambda study: study.get("left_out") or [], _study,
        Column("arm", "arm"), Column("why", "why", missing="no reason given")),
    "agreement": Table(_of_agreement, _study, *_csv("arm layer value")),
    "published": Table(_of_paper, _papers,
        Column("data_set", "data set", only="latex"), Column("run", "run"), Column("split", "split"),
        Column("examples", "examples", "count"), Column("accuracy", "accuracy, %", "percent"),
        Column("macro_f1", "macro F1, %", "percent"), Column("comparable", "comparable", "comparable"),
        Column("why"), Column("", "why", at="words", only="page")),
    "published_classes": Table(_of_published_classes, _papers, *_csv("data_set run split class f1")),
    "evaluations": Table(lambda one: [one], _evaluations,
        Column("run", "run", only="latex"), Column("", "run", "link", "link", only="page"),
        Column("", "arm", at="arm", only="page"), Column("", "seed", "plain", "seed", only="page"),
        Column("", "state", at="state", only="page"), Column("split", "split"), Column("step"),
        Column("examples", "examples", "count", only="latex"), Column("accuracy", "accuracy, %", "percent"),
        Column("accuracy_low accuracy_high", "95 % interval, %", "percent", "accuracy_interval"),
        Column("mean_class_accuracy", "mean class accuracy, %", "percent"),
        Column("macro_f1", "macro F1, %", "percent"), Column("loss"),
        Column("temperature", at="depth.calibration.temperature"),
        Column("ece_before", "ECE, %", "percent", "depth.calibration.before.ece"),
        *_csv("nll brier", "depth.calibration.before", "{}_before"),
        *_csv("ece nll brier", "depth.calibration.after", "{}_after"),
        *_csv("accuracy mean_class_accuracy macro_f1", "depth.flip", "flip_{}"),
        Column("flip_low flip_high", at="depth.flip.interval"),
        *_csv("difference mcnemar_p", "depth.flip", "flip_{}"),
        *_csv("leaked accuracy_leaked accuracy_without macro_f1_without", "depth.duplicates"),
        *_csv(shapes.VOTES, "depth.votes", "votes_{}"), *_csv("mean_accuracy relative", "robustness", "robustness_{}")),
    "per_class": Table(_of_classes, _evaluations,
        *_csv("run split"), Column("class", "class"), Column("precision", "precision, %", "percent"),
        Column("recall"), Column("", "recall, %", "percent", "known_recall"), Column("f1", "F1, %", "percent"),
        Column("examples", "examples", "count")),
    "confusion": Table(_of_confusion, _evaluations, *_csv("run split true predicted count")),
    "calibration": Table(_of_bins, _evaluations,
        *_csv("run split"), Column("scaling", "scaling"), Column("low", "from, %", "percent"),
        Column("high", "to, %", "percent"), Column("count", "examples", "count"),
        Column("confidence", "confidence, %", "percent"), Column("accuracy", "accuracy, %", "percent")),
    "robustness": Table(_of_robustness, _evaluations, *_csv("run split corruption strength accuracy macro_f1")),
    "factors": Table(_of_factors, _evaluations,
        *_csv("run split"), Column("factor", "factor"), Column("value", "value"),
        Column("examples", "examples", "count"), Column("accuracy", "accuracy, %", "bar"),
        Column("low high", "95 % interval, %", "percent", "interval")),
    "layers": Table(lambda layer: [layer], _layers,
        *_csv(f"run split layer experts selected dead {shapes.INFORMATION}")),
    "experts": Table(_of_experts, _layers,
        *_csv("run split layer"), Column("expert", "expert", "count"), Column("load"),
        Column("", "share, %", "scaled", "share"), Column("first", "first choices, %", "percent"),
        Column("importance", "importance, %", "percent")),
    "expert_classes": Table(_of_expert_classes, _layers, *_csv("run split layer expert class count")),
    "training": Table(_of_training, _training, *_csv("run part epoch loss accuracy macro_f1")),
}  # fmt: skip

#: Tables of the page that have no file of their own.
ON_PAGE: dict[str, Table] = {
    "all_runs": Table(_of_all_evaluations, _whole, *FILES["evaluations"].columns),
    "scores": Table(_of_scores, _evaluations,
        Column("", "logits", at="scaling"), Column("", "ECE, %", "percent", "ece"),
        Column("", "negative log likelihood", "decimal", "nll"), Column("", "Brier score", "decimal", "brier")),
    "surest": Table(_of_surest, _layers,
        Column("", "expert", "count", "expert"), Column("", "number in the split", "plain", "index"),
        Column("", "class", at="class"), Column("", "probability, %", "percent", "probability")),
}  # fmt: skip
