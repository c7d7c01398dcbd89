"""Documents of `expressnet report` for tests: a study with everything, one run, nothing, and names that bite."""

import base64
import io
import random
from typing import Any

from PIL import Image

from expressnet_jax.evaluation import metrics

CLASSES = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\x1b[31m\u202etxt"
LONG_NAME = "very_long_" * 60
ARABIC = "\u0648\u062c\u0647 (\u0633\u0639\u064a\u062f)"
ARMS = ["baseline", HOSTILE, ARABIC, LONG_NAME]
SEEDS = [0, 1, 2]


def document() -> dict[str, Any]:
    """A study of 4 arms and 3 seeds: 9 runs done, 1 failed, 1 missing, 1 unfinished; the first has every part."""
    source = random.Random(0)
    runs = [_run(source, arm, seed) for arm in ARMS for seed in SEEDS]
    troubles = [
        ("failed", "loss is NaN at step 40 <b>"),
        ("missing", "no folder =1+1"),
        ("unfinished", "step 80 of 100"),
    ]
    for run, (state, why) in zip(runs[-3:], troubles, strict=True):
        run |= {"state": state, "why": why, "evaluations": [], "training": None, "pictures": []}
    runs[-1]["training"] = _training(source, validations=0)
    runs[0]["evaluations"] = [full_evaluation(source), *runs[0]["evaluations"]]
    runs[0]["pictures"] = [{"title": "Ten faces & answers", "alt": 'Ten "drawn" faces', "src": picture()}]
    return {
        "title": "Study of experts & <others>",
        "runs": runs,
        "study": _study(source, runs),
        "against": _papers(),
        "notes": ["The run \u00e9t\u00e9 was left out: its config <differs>."],
    }


def single() -> dict[str, Any]:
    """One run, with every part."""
    report = document()
    return {"title": "One run", "runs": report["runs"][:1], "study": None, "against": None, "notes": []}


def empty() -> dict[str, Any]:
    """No runs at all."""
    return {"title": "Nothing", "runs": [], "study": None, "against": None, "notes": []}


def picture(width: int = 60, height: int = 40) -> str:
    """A PNG as a data: URI."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def full_evaluation(source: random.Random) -> dict[str, Any]:
    """An evaluation in which nothing is null."""
    found = _evaluation(source, "fer2013 (private_test)")
    found["depth"]["calibration"] |= {"temperature": 1.31831, "fitted_on": "validation", "after": _calibration(source)}
    found["depth"]["duplicates"] = {
        "leaked": 12, "accuracy": found["accuracy"], "accuracy_leaked": 0.75, "accuracy_without": 0.61234567,
        "macro_f1_without": 0.5832211,
    }  # fmt: skip
    found["depth"]["votes"] = {
        "agreement_top": 0.6312345, "cross_entropy": 1.2345678, "kl": 0.7654321,
        "mean_probability_of_majority": 0.5598765, "spearman_entropy": 0.2468135,
    }  # fmt: skip
    found["experts"] = {"moe_cnn": _layer(source, 4, 2), "moe_expression": _layer(source, 5, 1)}
    strengths = [0, 1, 2, 3, 4, 5]
    names = ["blur", "noise", "jpeg", "contrast", "brightness", "rotation", "pixelation", "occlusion"]
    found["robustness"] = {
        "strengths": strengths,
        "corruptions": {
            name: {key: [0.62 - s * source.uniform(0.01, 0.09) for s in strengths] for key in ("accuracy", "macro_f1")}
            for name in names
        },
        "mean_accuracy": 0.4712345,
        "relative": 0.7600557,
    }
    found["factors"] = {
        factor: [_value(source, value) for value in values]
        for factor, values in {"light": ["left", "right", "=cmd"], "glasses": ["yes", "no"]}.items()
    }
    found["chosen_on"] = True
    found["saliency"] = {"shares": {"CNNFE1": 0.4123456, "CNNFE2": 0.2, "ResNet": 0.3876544}, "examples": 8}
    return found


def _value(source: random.Random, value: str) -> dict[str, Any]:
    examples = source.randint(50, 400)
    right = source.randint(0, examples)
    low, high = metrics.wilson_interval(right, examples)
    return {"value": value, "examples": examples, "accuracy": right / examples, "interval": [low, high]}


def _evaluation(source: random.Random, split: str) -> dict[str, Any]:
    """An evaluation in which every optional part is null."""
    counts = [[source.randint(0, 30) + 200 * (i == j) for j in range(7)] for i in range(7)]
    counts[1] = [0] * 7  # a class without examples
    summary = metrics.summarize(counts, CLASSES)
    flip = {
        "accuracy": summary["accuracy"] + 0.0043210, "mean_class_accuracy": 0.5512345, "macro_f1": 0.5498761,
        "interval": [0.6012345, 0.6398765], "difference": 0.004321, "mcnemar_p": 0.0312345,
    }  # fmt: skip
    before = {"temperature": None, "fitted_on": None, "before": _calibration(source), "after": None}
    depth = {"calibration": before, "flip": flip, "duplicates": None, "votes": None}
    where = {"workdir": "/runs/one", "step": 12345, "split": split, "loss": source.uniform(1, 1.3)}
    return {**summary, **where, "depth": depth, "experts": {}, "robustness": None, "factors": None}


def _calibration(source: random.Random) -> dict[str, Any]:
    bins = []
    for n in range(15):
        count = source.randint(0, 400) if n > 2 else 0
        means = [(n + source.random()) / 15, max(0.0, (n - source.random()) / 15)] if count else [None, None]
        means = dict(zip(("confidence", "accuracy"), means, strict=True))
        bins.append({"low": n / 15, "high": (n + 1) / 15, "count": count, **means})
    return {
        "ece": source.uniform(0.01, 0.1),
        "nll": source.uniform(1, 1.3),
        "brier": source.uniform(0.4, 0.6),
        "bins": bins,
    }


def _layer(source: random.Random, experts: int, selected: int) -> dict[str, Any]:
    weights = [source.random() for _ in range(experts)]
    importance = [source.random() for _ in range(experts)]
    return {
        "experts": experts,
        "selected": selected,
        "load": [w / sum(weights) for w in weights],
        "first": [w / sum(weights) for w in reversed(weights)],
        "importance": [w / sum(importance) for w in importance],
        "entropy": source.random(),
        "dead": 0,
        "classes": [[source.randint(0, 200) for _ in range(7)] for _ in range(experts)],
        "mutual_information": source.random(),
        "mutual_information_by_chance": source.random() / 100,
        "normalized_mutual_information": source.random(),
        "surest": [
            [{"index": n, "label": source.randrange(7), "probability": source.random()} for n in (7, 99)]
            for _ in range(experts)
        ],
    }  # fmt: skip


def _training(source: random.Random, validations: int = 12) -> dict[str, Any]:
    train = [[n / 30, 1.9 - n / 400 + source.uniform(0, 0.2), 0.25 + n / 900] for n in range(1, 361)]
    validation = [[float(n), 1.8 - n / 25, 0.3 + n / 40, 0.25 + n / 40] for n in range(1, validations + 1)]
    return {
        "steps": 12345, "best_step": 11222, "best_epoch": 11, "training_time": "59:41", "images_per_second": 221.4321,
        "train": train, "validation": validation,
    }  # fmt: skip


def _run(source: random.Random, arm: str, seed: int) -> dict[str, Any]:
    return {
        "name": f"{arm}/seed{seed}",
        "path": f"/runs/{arm}/seed{seed}",
        "arm": arm,
        "seed": seed,
        "state": "done",
        "why": None,
        "settings": {
            "moe.num_experts": 4 + ARMS.index(arm),
            "seed": seed,
            "augment.flip": True,
            "data.name": "fer2013",
        },
        "parameters": 3237967,
        "flops_per_image": 812345678,
        "training": _training(source),
        "evaluations": [_evaluation(source, "fer2013 (public_test)")],
        "pictures": [],
    }


def _study(source: random.Random, runs: list[dict[str, Any]]) -> dict[str, Any]:
    verdicts = {
        HOSTILE: ("better", [0.0123456, 0.0223456], 0.0021),
        ARABIC: ("worse", [-0.0312345, -0.0112345], 0.00003),
        LONG_NAME: ("not enough runs", None, None),
    }
    comparisons = [
        {
            "arm": arm,
            "baseline": "baseline",
            "difference": 0.005 if interval is None else sum(interval) / 2,
            "interval": interval,
            "p_value": p_value,
            "verdict": verdict,
            "mcnemar": [
                {"seed": seed, "only_arm": 40 + seed, "only_baseline": 30, "p_value": source.random()}
                for seed in (SEEDS if interval else [])
            ],
        }
        for arm, (verdict, interval, p_value) in verdicts.items()
    ]
    return {
        "name": "experts <3",
        "question": "Do more experts help?",
        "config": "fer2013_small",
        "split": "validation",
        "seeds": SEEDS,
        "baseline": "baseline",
        "alpha": 0.05,
        "counts": {"planned": 12, "done": 9, "failed": 1, "missing": 1, "unfinished": 1},
        "arms": [_arm(arm, [run for run in runs if run["arm"] == arm]) for arm in ARMS],
        "comparisons": comparisons,
        "left_out": [{"arm": "experts=9", "why": "9 experts do not divide over 2 devices & more"}],
        "agreement": {"baseline": {"moe_cnn": 0.3123456, "moe_expression": None}, HOSTILE: None},
        "conclusion": ["Two of three arms were compared.", "One arm has too few runs."],
    }


def _arm(arm: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    done = [run["evaluations"][-1] for run in runs if run["state"] == "done"]
    values = {key: [one[key] for one in done] for key in ("accuracy", "mean_class_accuracy", "macro_f1")}
    values["ece"] = [one["depth"]["calibration"]["before"]["ece"] for one in done]
    return {
        "name": arm,
        "settings": {} if arm == "baseline" else {"moe.num_experts": 4 + ARMS.index(arm)},
        "runs": [run["name"] for run in runs],
        "done": len(done),
        "parameters": 3237967,
        "flops_per_image": 812345678,
        "metrics": {key: _spread(found) for key, found in values.items()},
        "images_per_second": 221.4321 if done else None,
    }


def _spread(values: list[float]) -> dict[str, Any]:
    """Of few values: their mean, and made-up figures of their spread."""
    mean = sum(values) / len(values) if values else None
    several = len(values) > 1 and mean is not None
    interval = [mean - 0.0123456, mean + 0.0123456] if several else None
    return {"mean": mean, "std": 0.0041234 if several else None, "interval": interval, "values": values}


def _papers() -> list[dict[str, Any]]:
    f1 = dict(zip(CLASSES, (0.59, 0.49, 0.40, 0.86, 0.60, 0.56, 0.73), strict=True))
    row = {
        "run": "baseline/seed0", "split": "fer2013 (test)", "examples": 7178, "accuracy": 0.6054321,
        "macro_f1": 0.5512345, "per_class_f1": {label: value - 0.0123 for label, value in f1.items()},
    }  # fmt: skip
    other = {**row, "split": HOSTILE, "per_class_f1": {}, "comparable": True, "why": "the same 7,178 pictures"}
    paper = {
        "data_set": "FER-2013",
        "classes": CLASSES,
        "published": {"accuracy": 0.6466, "macro_f1": 0.61, "examples": 7178},
        "per_class_f1": f1,
        "rows": [{**row, "comparable": False, "why": "this copy has 3,589 of the 7,178 pictures"}, other],
    }
    return [paper, {**paper, "data_set": HOSTILE, "per_class_f1": None, "classes": None, "rows": [other]}]
