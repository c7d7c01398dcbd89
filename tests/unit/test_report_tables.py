"""Tables of the report for spreadsheets and for LaTeX, read back and compared with the document."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import DataError
from expressnet_jax.report import number_files
from tests import report_document as documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("tables") / "new"
    written = number_files.write_csv(documents.document(), where)
    assert sorted(written) == sorted(where.iterdir())
    return where


def read(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def plain(value: Any) -> str:
    """A cell as the csv module writes it; repr gives all digits of a float."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def evaluations() -> list[tuple[str, dict[str, Any]]]:
    return [(run["name"], one) for run in documents.document()["runs"] for one in run["evaluations"]]


def test_study(folder: Path) -> None:
    study = documents.document()["study"]
    for row, arm in zip(read(folder, "arms"), study["arms"], strict=True):
        assert row["arm"] == arm["name"]
        assert (row["done"], row["planned"]) == (str(arm["done"]), str(len(arm["runs"])))
        for key, metric in arm["metrics"].items():
            low, high = metric["interval"] or (None, None)
            expected = [plain(value) for value in (metric["mean"], metric["std"], low, high)]
            assert [row[f"{key}_{part}"] for part in ("mean", "std", "low", "high")] == expected
    assert [(row["arm"], row["metric"], row["value"]) for row in read(folder, "arm_values")] == [
        (arm["name"], key, repr(value))
        for arm in study["arms"]
        for key in ("accuracy", "mean_class_accuracy", "macro_f1", "ece")
        for value in arm["metrics"][key]["values"]
    ]
    for row, one in zip(read(folder, "comparisons"), study["comparisons"], strict=True):
        low, high = one["interval"] or (None, None)
        figures = [one["arm"], one["baseline"], one["difference"], low, high, one["p_value"], one["verdict"]]
        assert list(row.values()) == list(map(plain, figures))
    tests = [test for one in study["comparisons"] for test in one["mcnemar"]]
    assert [row["p_value"] for row in read(folder, "mcnemar")] == [repr(test["p_value"]) for test in tests]
    assert [row["value"] for row in read(folder, "agreement")] == ["0.3123456", ""]
    assert read(folder, "left_out") == study["left_out"]


def test_runs(folder: Path) -> None:
    runs = documents.document()["runs"]
    for row, run in zip(read(folder, "runs"), runs, strict=True):
        for key in ("arm", "seed", "state", "parameters", "path"):
            assert row[key] == plain(run[key])
        assert row["flops_per_image_all_experts"] == plain(run["flops_per_image"])
        assert row["images_per_second"] == plain((run["training"] or {}).get("images_per_second"))
    assert read(folder, "runs")[0]["settings"] == "moe.num_experts=4, seed=0, augment.flip=true, data.name=fer2013"
    assert [row["why"] for row in read(folder, "runs")[-3:]] == [run["why"] for run in runs[-3:]]
    records = [
        [run["name"], part, *map(plain, record)]
        for run in runs
        for part in ("train", "validation")
        for record in (run["training"] or {}).get(part, [])
    ]
    assert [[value for value in row.values() if value] for row in read(folder, "training")] == records


def test_evaluations(folder: Path) -> None:
    found = evaluations()
    for row, (run, one) in zip(read(folder, "evaluations"), found, strict=True):
        calibration, flip = one["depth"]["calibration"], one["depth"]["flip"]
        expected = {
            "run": run,
            "split": one["split"],
            "accuracy": one["accuracy"],
            "accuracy_low": one["accuracy_interval"][0],
            "accuracy_high": one["accuracy_interval"][1],
            "macro_f1": one["macro_f1"],
            "loss": one["loss"],
            "temperature": calibration["temperature"],
            "ece_before": calibration["before"]["ece"],
            "brier_after": (calibration["after"] or {}).get("brier"),
            "flip_difference": flip["difference"],
            "flip_mcnemar_p": flip["mcnemar_p"],
            "accuracy_without": (one["depth"]["duplicates"] or {}).get("accuracy_without"),
            "votes_kl": (one["depth"]["votes"] or {}).get("kl"),
            "robustness_relative": (one["robustness"] or {}).get("relative"),
        }
        assert {key: row[key] for key in expected} == {key: plain(value) for key, value in expected.items()}
    assert [[row["class"], row["precision"], row["recall"], row["f1"]] for row in read(folder, "per_class")] == [
        [label, *(repr(by[key]) for key in ("precision", "recall", "f1"))]
        for _, one in found
        for label, by in one["per_class"].items()
    ]
    assert [row["count"] for row in read(folder, "confusion")] == [
        str(count) for _, one in found for counts in one["confusion"] for count in counts
    ]


def test_parts(folder: Path) -> None:
    """What only the first evaluation has."""
    found = evaluations()[0][1]
    after = [row for row in read(folder, "calibration") if row["scaling"] == "after"]
    assert [[row[key] for key in ("low", "high", "count", "confidence", "accuracy")] for row in after] == [
        [plain(one[key]) for key in ("low", "high", "count", "confidence", "accuracy")]
        for one in found["depth"]["calibration"]["after"]["bins"]
    ]
    assert [(row["corruption"], row["strength"], row["accuracy"]) for row in read(folder, "robustness")] == [
        (name, str(strength), repr(one["accuracy"][strength]))
        for name, one in found["robustness"]["corruptions"].items()
        for strength in range(6)
    ]
    assert [row["value"] for row in read(folder, "factors")] == ["left", "right", "'=cmd", "yes", "no"]
    for row in read(folder, "experts"):
        assert row["load"] == repr(found["experts"][row["layer"]]["load"][int(row["expert"])])
    for row in read(folder, "expert_classes"):
        by_class = found["experts"][row["layer"]]["classes"][int(row["expert"])]
        assert row["count"] == str(by_class[found["classes"].index(row["class"])])
    assert len(read(folder, "experts")) == 9 and len(read(folder, "expert_classes")) == 63
    assert [row["dead"] for row in read(folder, "layers")] == ["0", "0"]
    papers = documents.document()["against"]
    assert [row["why"] for row in read(folder, "published")][1:3] == [one["why"] for one in papers[0]["rows"]]
    assert [row["f1"] for row in read(folder, "published_classes")][:7] == [
        repr(value) for value in papers[0]["per_class_f1"].values()
    ]


@pytest.mark.parametrize(
    "name",
    [
        "=1+1",
        "+a",
        "-a",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "=",
        "-",
        "-inf",
        "+1_0",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff20a",
    ],
)
def test_no_formulas(name: str, tmp_path: Path) -> None:
    run = {
        "name": name,
        "why": f"because {name}",
        "settings": {name: 1},
        "state": "-1.5",
        "seed": -3,
        "evaluations": [],
    }
    number_files.write_csv({"runs": [run]}, tmp_path)
    (row,) = read(tmp_path, "runs")
    assert (row["run"], row["why"], row["settings"]) == (f"'{name}", f"because {name}", f"'{name}=1")
    assert (row["state"], row["seed"]) == ("-1.5", "-3")


@pytest.mark.parametrize("name", ["a;=1+1;b", 'a;"=1+1"', "a; \uff1d1", ';;-"x"'])
def test_no_formulas_where_lines_are_parted_at_semicolons(name: str, tmp_path: Path) -> None:
    """As Excel reads the file in half of Europe: a quote that is not at the start of a cell is a letter there."""
    number_files.write_csv({"runs": [{"name": name, "path": name, "why": "a; -; b", "state": "a;b"}]}, tmp_path)
    for line in (tmp_path / "runs.csv").read_text().splitlines():
        assert not any(re.match(r"[\s\"]*[-=+@\uff1d]", cell) for cell in line.split(";")), line
    (row,) = read(tmp_path, "runs")
    assert row["run"] == row["path"] and row["run"].replace("'", "") == name and row["state"] == "a;b"


def test_texts_are_in_quotes(tmp_path: Path) -> None:
    number_files.write_csv({"runs": [{"name": "a;b", "state": "done", "seed": 3, "parameters": 1.5}]}, tmp_path)
    head, row = (tmp_path / "runs.csv").read_text().splitlines()
    assert head.startswith('"run","path"') and row.startswith('"a;b","","",3,"done"') and ",1.5," in row


def test_odd_text(tmp_path: Path) -> None:
    """Quotes, lines, commas and names of files that are no text come back as they went in, or spelt out."""
    name = 'a "b", c\nd \u00e9 \u9854'
    number_files.write_csv({"runs": [{"name": name}, {"name": "half \udcff"}]}, tmp_path)
    assert [row["run"] for row in read(tmp_path, "runs")] == [name, "half \\udcff"]


def test_empty(tmp_path: Path) -> None:
    """A table without rows has no file, and none of an earlier report."""
    for name in ("mcnemar.csv", "published.tex", "other.csv"):
        (tmp_path / name).write_text("earlier")
    for report in ({}, documents.empty()):
        assert number_files.write_latex(report, tmp_path) == []
        made = number_files.write_csv(report, tmp_path)
        assert all(len(path.read_text().splitlines()) > 1 for path in made)
        assert {path.name for path in tmp_path.iterdir()} == {"other.csv", *(path.name for path in made)}


def test_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for write in (number_files.write_csv, number_files.write_latex):
        with pytest.raises(DataError, match="file: cannot be written"):
            write(documents.empty(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here"


def _latex_rows(text: str) -> list[list[str]]:
    body = re.findall(r"\\midrule\n(.*?)    \\bottomrule", text, re.DOTALL)
    lines = [line for part in body for line in part.splitlines()]
    assert all(line.endswith(r" \\") for line in lines)
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line[:-2])] for line in lines]


@pytest.fixture(scope="module")
def latex(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    written = number_files.write_latex(documents.document(), tmp_path_factory.mktemp("latex"))
    return {path.stem: path.read_text() for path in written}


def test_latex_is_well_formed(latex: dict[str, str]) -> None:
    assert set(latex) == {"arms", "comparisons", "evaluations", "per_class", "published"}
    for text in latex.values():
        unescaped = re.sub(r"\\[{}]", "", text)
        depth = 0
        for letter in unescaped:
            depth += {"{": 1, "}": -1}.get(letter, 0)
            assert depth >= 0
        assert depth == 0
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") > 0
        (columns, *others) = re.findall(r"\\begin\{tabular\}\{(l?r*)\}", text)
        assert set(others) <= {columns}
        for row in [*re.findall(r"\\toprule\n(.*)\n", text), *re.findall(r"\n    (.*&.*)", text)]:
            assert len(re.split(r"(?<!\\)&", row)) == len(columns)
        assert not re.search(r"(?<!\\)[%#_$]", re.sub(r"\$(\\pm|-|p)\$", "", text))


def test_latex_of_a_study(latex: dict[str, str]) -> None:
    study = documents.document()["study"]
    found = _latex_rows(latex["arms"])
    for row, arm in zip(found, study["arms"], strict=True):
        assert row[1] == f"{arm['parameters']:,}" and row[3] == f"{arm['done']}/3"
        accuracy = arm["metrics"]["accuracy"]
        expected = f"{100 * accuracy['mean']:.2f} $\\pm$ {100 * accuracy['std']:.2f}" if arm["done"] else "-"
        assert row[4] == expected
    assert (
        found[1][0].startswith(r"\textless{}script\textgreater{}alert(1)\textless{}/script")
        and r"\&amp;" in found[1][0]
    )
    assert r"Arms of the study experts \textless{}3" in latex["arms"] and "all experts computed" in latex["arms"]
    rows = _latex_rows(latex["comparisons"])
    assert [row[4] for row in rows] == [one["verdict"] for one in study["comparisons"]]
    assert rows[0][1:4] == ["+1.73", "+1.23 to +2.23", "0.0021"]
    assert rows[1][1:4] == ["$-$2.12", "$-$3.12 to $-$1.12", r"\textless{} 0.0001"]
    assert rows[2][2:4] == ["-", "-"] and "less that of baseline" in latex["comparisons"]


def test_latex_of_evaluations(latex: dict[str, str]) -> None:
    figures = [by for _, one in evaluations() for by in one["per_class"].values()]
    assert [row[3] for row in _latex_rows(latex["per_class"])] == [f"{100 * by['f1']:.2f}" for by in figures]
    recalls = [f"{100 * by['recall']:.2f}" if by["examples"] else "-" for by in figures]
    assert [row[2] for row in _latex_rows(latex["per_class"])] == recalls and "-" in recalls
    for row, (_, one) in zip(_latex_rows(latex["evaluations"]), evaluations(), strict=True):
        low, high = one["accuracy_interval"]
        expected = [f"{one['examples']:,}", f"{100 * one['accuracy']:.2f}", f"{100 * low:.2f} to {100 * high:.2f}"]
        assert row[2:5] == expected
        ece = one["depth"]["calibration"]["before"]["ece"]
        assert row[5:] == [f"{100 * value:.2f}" for value in (one["mean_class_accuracy"], one["macro_f1"], ece)]
    rows = _latex_rows(latex["published"])
    assert [row[6] for row in rows] == ["-", "no", "yes", "-", "yes"]
    assert rows[0] == ["FER-2013", "published", "-", "7,178", "64.66", "61.00", "-"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (r"a\b{c}$d&e#f_g%h", r"a\textbackslash{}b\{c\}\$d\&e\#f\_g\%h"),
        ("~^<>|", r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"),
        ("[1ex] and *", "{[}1ex] and {*}"),
        ("two\nlines", r"two\textbackslash{}nlines"),
        ("\u00e9\u9854", "\u00e9\u9854"),
    ],
)
def test_latex_escapes(name: str, expected: str, tmp_path: Path) -> None:
    number_files.write_latex({"study": {"arms": [{"name": name}]}}, tmp_path)
    assert _latex_rows((tmp_path / "arms.tex").read_text())[0][0] == expected
