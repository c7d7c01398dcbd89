"""Of the page: one evaluation of a run, from its headline figures to its experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from expressnet_jax.figures import charts
from expressnet_jax.report.markup import (
    Cell,
    Html,
    Number,
    bar,
    facts,
    finite,
    folded,
    get,
    heading,
    heat,
    interval,
    join,
    label,
    paragraph,
    span,
    table,
    text,
    with_interval,
)


def evaluation(found: dict[str, Any], key: str) -> Html:
    """All that was measured on one split. key: unique on the page, the start of all ids in it."""
    parts: list[Callable[[dict[str, Any], str], Html]] = [
        _headline, _classes, _confusion, _calibration, _flip, _duplicates, _votes, _robustness, _factors, _experts,
        _saliency,
    ]  # fmt: skip
    title = heading(4, f"Evaluated on {found.get('split') or 'a split without a name'}")
    return join([title, *(part(found, key) for part in parts)])


def _headline(found: dict[str, Any], key: str) -> Html:
    accuracy = with_interval(found.get("accuracy"), found.get("accuracy_interval"), "percent")
    pairs: list[tuple[str, Cell]] = [
        ("accuracy (95 % interval), %", accuracy),
        ("mean class accuracy, %", Number(found.get("mean_class_accuracy"), "percent")),
        ("macro F1, %", Number(found.get("macro_f1"), "percent")),
        ("loss", Number(found.get("loss"), "decimal")),
        ("examples", Number(found.get("examples"), "count")),
        ("checkpoint of step", Number(found.get("step"), "count")),
    ]
    chosen = "The epoch was chosen by its accuracy on these very examples, so the figures are not an honest estimate."
    return join([facts(pairs), paragraph(chosen) if found.get("chosen_on") else ""])


def _classes(found: dict[str, Any], key: str) -> Html:
    rows: list[list[Cell]] = []
    for true, one in (found.get("per_class") or {}).items():
        examples = get(one, "examples")
        # 0 of 0 counts as 0 in the means, but in a table it would read as a failure.
        recall = None if examples == 0 else get(one, "recall")
        figures = [Number(value, "percent") for value in (get(one, "precision"), recall, get(one, "f1"))]
        rows.append([true, *figures, Number(examples, "count")])
    head = ["class", "precision, %", "recall, %", "F1, %", "examples"]
    return table(f"{key}-classes", "Each class.", head, rows)


def _confusion(found: dict[str, Any], key: str) -> Html:
    counts, labels = found.get("confusion") or [], list(found.get("classes") or [])
    rows: list[list[Cell]] = [
        [true, *_heated([get(row, place) for place in range(len(labels))])]
        for true, row in zip(labels, counts, strict=False)
    ]
    caption = "Confusion: rows are the true class, columns the predicted one; below each count its share of the row."
    return table(f"{key}-confusion", caption, ["true \\ predicted", *labels], rows, "matrix")


def _heated(counts: list[Any]) -> list[Cell]:
    """A row of counts, each on a ground as strong as its share of the row."""
    total = sum(finite(count) or 0 for count in counts)
    cells: list[Cell] = []
    for count in counts:
        share = (finite(count) or 0) / total if total else 0.0
        note = Html(f"<small>{100 * share:.1f} %</small>") if total else Html("")
        cells.append(heat(Number(count, "count"), share, note))
    return cells


def _calibration(found: dict[str, Any], key: str) -> Html:
    calibration = get(found, "depth", "calibration")
    states = {name: get(calibration, name) for name in ("before", "after") if get(calibration, name)}
    if not states:
        return Html("")
    figures: list[list[Cell]] = []
    bins: list[list[Cell]] = []
    for name, one in states.items():
        decimals = [Number(one.get(score), "decimal") for score in ("nll", "brier")]
        figures.append([f"{name} scaling", Number(one.get("ece"), "percent"), *decimals])
        for each in one.get("bins") or []:
            shares = [Number(each.get(end), "percent") for end in ("low", "high")]
            means = [Number(each.get(mean), "percent") for mean in ("confidence", "accuracy")]
            bins.append([name, *shares, Number(each.get("count"), "count"), *means])
    where = calibration.get("fitted_on")
    fitted = f", fitted on {text(where)}" if where else ""
    temperature = paragraph(f"Temperature {span(calibration.get('temperature'), 'decimal')}{fitted}.")
    head = ["scaling", "from, %", "to, %", "examples", "confidence, %", "accuracy, %"]
    drawn = charts.reliability(f"{key}-reliability", *_reliability(states))
    return join(
        [
            heading(5, "Calibration"),
            temperature if calibration.get("temperature") is not None else "",
            table(
                f"{key}-calibration",
                "Scores.",
                ["logits", "ECE, %", "negative log likelihood", "Brier score"],
                figures,
                "",
            ),
            f'<div class="charts">\n{drawn}</div>\n' if drawn else "",
            folded("The bins as a table", table(f"{key}-bins", "Bins of confidence.", head, bins)),
        ]
    )


def _reliability(states: dict[str, Any]) -> tuple[list[charts.Line], list[tuple[float, float, float]]]:
    """The lines before and after scaling, and the bins' sizes before it."""
    drawn = []
    for look, (name, one) in enumerate(states.items()):
        pairs = [
            (finite(b.get("confidence")), finite(b.get("accuracy"))) for b in one.get("bins") or [] if b.get("count")
        ]
        points = [(100 * x, 100 * y) for x, y in pairs if x is not None and y is not None]
        drawn.append(charts.Line(f"{name} scaling", points, look))
    first = next(iter(states.values())).get("bins") or []
    most = max((one.get("count") or 0 for one in first), default=0)
    known = [one for one in first if one.get("count") and None not in (one.get("low"), one.get("high"))]
    return drawn, [(one["low"], one["high"], one["count"] / most) for one in known]


def _flip(found: dict[str, Any], key: str) -> Html:
    flip = get(found, "depth", "flip")
    if not flip:
        return Html("")
    rows: list[list[Cell]] = []
    for title, one, between in (
        ("the picture alone", found, found.get("accuracy_interval")),
        ("mean with its mirror image", flip, flip.get("interval")),
    ):
        figures = [Number(get(one, name), "percent") for name in ("accuracy", "mean_class_accuracy", "macro_f1")]
        rows.append([title, figures[0], interval(between, "percent"), *figures[1:]])
    head = ["answer", "accuracy, %", "95 % interval, %", "mean class accuracy, %", "macro F1, %"]
    p_value = span(flip.get("mcnemar_p"), "p")
    words = f"Difference in accuracy {span(flip.get('difference'), 'points')} points; McNemar's p {p_value}."
    caption = "Probabilities of a picture and of its mirror image."
    return join([heading(5, "Mirror images"), table(f"{key}-flip", caption, head, rows, ""), paragraph(words)])


def _duplicates(found: dict[str, Any], key: str) -> Html:
    leaks = get(found, "depth", "duplicates")
    if not leaks:
        return Html("")
    percents = {
        "accuracy": "accuracy on all, %",
        "accuracy_leaked": "accuracy on these, %",
        "accuracy_without": "accuracy without them, %",
        "macro_f1_without": "macro F1 without them, %",
    }
    pairs: list[tuple[str, Cell]] = [("also in the training data", Number(leaks.get("leaked"), "count"))]
    pairs += [(title, Number(leaks.get(name), "percent")) for name, title in percents.items()]
    return join([heading(5, "Pictures that training has seen"), facts(pairs)])


def _votes(found: dict[str, Any], key: str) -> Html:
    votes = get(found, "depth", "votes")
    if not votes:
        return Html("")
    pairs: list[tuple[str, Cell]] = [
        ("agrees with the most frequent vote, %", Number(votes.get("agreement_top"), "percent")),
        ("mean probability of that vote, %", Number(votes.get("mean_probability_of_majority"), "percent")),
        ("cross-entropy, nats", Number(votes.get("cross_entropy"), "decimal")),
        ("Kullback-Leibler divergence, nats", Number(votes.get("kl"), "decimal")),
        ("Spearman's rank correlation of the entropies", Number(votes.get("spearman_entropy"), "decimal")),
    ]
    return join([heading(5, "People's votes"), facts(pairs)])


def _robustness(found: dict[str, Any], key: str) -> Html:
    robustness = found.get("robustness") or {}
    corruptions, strengths = robustness.get("corruptions") or {}, robustness.get("strengths") or []
    if not corruptions:
        return Html("")
    mean, relative = (span(robustness.get(name), "percent") for name in ("mean_accuracy", "relative"))
    words = (
        f"Over all corruptions at strengths 1 and above: mean accuracy {mean} %, which is {relative} % of that of the "
        "pictures as they are."
    )
    tables = []
    for measure, title in (("accuracy", "Accuracy"), ("macro_f1", "Macro F1")):
        rows: list[list[Cell]] = []
        for name, one in corruptions.items():
            values = [get(one, measure, place) for place in range(len(strengths))]
            rows.append([name, *(heat(Number(value, "percent"), value) for value in values)])
        head = ["corruption", *(f"strength {label(strength)}" for strength in strengths)]
        tables.append(table(f"{key}-robustness-{measure}", f"{title}, %.", head, rows, "matrix"))
    panels = join(
        _panel(f"{key}-corruption-{n}", name, one, strengths) for n, (name, one) in enumerate(corruptions.items())
    )
    note = "In the panels: accuracy solid with circles, macro F1 dashed with squares, both in %, over strengths."
    return join(
        [
            heading(5, "Robustness"),
            paragraph(words),
            f'<div class="charts">\n{panels}</div>\n{paragraph(note, weak=True)}',
            *tables,
        ]
    )


def _panel(key: str, name: str, one: dict[str, Any], strengths: list[Any]) -> Html:
    drawn = []
    for look, (measure, title) in enumerate((("accuracy", "accuracy"), ("macro_f1", "macro F1"))):
        pairs = [(finite(strength), finite(get(one, measure, place))) for place, strength in enumerate(strengths)]
        points = [(x, 100 * y) for x, y in pairs if x is not None and y is not None]
        drawn.append(charts.Line(title, points, look))
    return Html(charts.panel(key, name, drawn))


def _factors(found: dict[str, Any], key: str) -> Html:
    rows: list[list[Cell]] = []
    for factor, values in (found.get("factors") or {}).items():
        for one in values or []:
            accuracy = join([span(one.get("accuracy"), "percent"), bar(one.get("accuracy"))])
            between = interval(one.get("interval"), "percent")
            rows.append([factor, label(one.get("value")), Number(one.get("examples"), "count"), accuracy, between])
    if not rows:
        return Html("")
    head = ["factor", "value", "examples", "accuracy, %", "95 % interval, %"]
    caption = "What the faces were drawn with, and the accuracy on those."
    return join([heading(5, "Factors of the drawn faces"), table(f"{key}-factors", caption, head, rows)])


def _experts(found: dict[str, Any], key: str) -> Html:
    layers = [(name, one) for name, one in (found.get("experts") or {}).items() if one]
    if not layers:
        return Html("")
    labels = list(found.get("classes") or [])
    drawn = join(_layer(name, one, labels, f"{key}-layer-{place}") for place, (name, one) in enumerate(layers))
    return join([heading(5, "Experts"), drawn])


def _layer(name: str, layer: dict[str, Any], labels: list[Any], key: str) -> Html:
    # Where all experts answer, what is counted is whom the router puts first.
    word = "first choice" if layer.get("selected") == layer.get("experts") else "selection"
    pairs: list[tuple[str, Cell]] = [
        ("experts", Number(layer.get("experts"), "count")),
        ("selected for a picture", Number(layer.get("selected"), "count")),
        (f"without a {word}", Number(layer.get("dead"), "count")),
        ("mean entropy of the router, nats", Number(layer.get("entropy"), "decimal")),
        ("mutual information of first choice and class, bits", Number(layer.get("mutual_information"), "decimal")),
        ("the same by chance alone, bits", Number(layer.get("mutual_information_by_chance"), "decimal")),
        ("the same, normalized", Number(layer.get("normalized_mutual_information"), "decimal")),
    ]
    loads, importance = layer.get("load") or [], layer.get("importance") or []
    widest = max([finite(load) or 0 for load in loads], default=0) or 1
    rows: list[list[Cell]] = [
        [
            Number(expert, "count"),
            join([span(load, "percent"), bar((finite(load) or 0) / widest)]),
            Number(get(importance, expert), "percent"),
        ]
        for expert, load in enumerate(loads)
    ]
    title = Html(f"<p><strong>{text(name)}</strong></p>\n")
    even = f" An even share is {100 / len(loads):.2f} %." if loads else ""
    head = ["expert", f"share of the {word}s, %", "importance, %"]
    counts = layer.get("classes") or []  # of each expert, by class
    by_class = [[true, *_heated([get(row, place) for row in counts])] for place, true in enumerate(labels)]
    columns = ["class \\ expert", *map(str, range(len(counts)))]
    return join(
        [
            title,
            facts(pairs),
            table(f"{key}-load", f"{name}: {word}s of each expert.{even}", head, rows),
            table(
                f"{key}-map",
                f"{name}: {word}s by true class; below each its share of the row.",
                columns,
                by_class if counts else [],
                "matrix",
            ),
            folded("Pictures that the router is surest about", _surest(name, layer, labels, key)),
        ]
    )


def _surest(name: str, layer: dict[str, Any], labels: list[Any], key: str) -> Html:
    rows: list[list[Cell]] = []
    for expert, pictures in enumerate(layer.get("surest") or []):
        for one in pictures or []:
            true = get(labels, one["label"]) if one.get("label") is not None else None
            index, probability = Number(one.get("index"), "plain"), Number(one.get("probability"), "percent")
            rows.append([Number(expert, "count"), index, label(true), probability])
    head = ["expert", "number in the split", "class", "probability, %"]
    return table(f"{key}-surest", f"{name}: the highest probabilities of each expert.", head, rows)


def _saliency(found: dict[str, Any], key: str) -> Html:
    shares = get(found, "saliency", "shares")
    if not shares:
        return Html("")
    rows: list[list[Cell]] = [[branch, join([span(share, "percent"), bar(share)])] for branch, share in shares.items()]
    caption = "Share of each branch in what would change the answer, mean over some pictures."
    return join([heading(5, "Branches"), table(f"{key}-saliency", caption, ["branch", "share, %"], rows)])
