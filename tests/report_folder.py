"""Folders of runs and of studies for tests of `expressnet report`, written by hand: nothing is trained."""

import base64
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.text import json_line
from expressnet_jax.ablation import study as studies
from expressnet_jax.ablation import sweep
from expressnet_jax.ablation.study import Study
from expressnet_jax.config import Config, to_dict
from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import answers as answering
from expressnet_jax.evaluation.answers import Answers
from tests import report_document as documents
from tests.conftest import TINY

SPLIT = "held_out"
EVALUATION = Path("evaluation", "tiny_held_out")
PNG = base64.b64decode(documents.picture().partition(",")[2])


def run(folder: Path, config: Config | None = None) -> Path:
    """A run that is trained and evaluated, with every part that an evaluation can have."""
    (folder / EVALUATION).mkdir(parents=True)
    write(folder / "config.json", to_dict(config or config_files.load(TINY)))
    write(folder / "summary.json", summary())
    text = "".join(json_line(record) for record in records())
    (folder / "metrics.jsonl").write_text(text)
    write(folder / EVALUATION / "summary.json", evaluation())
    answering.save(answers(), folder / EVALUATION / "answers.npz")
    (folder / EVALUATION / "predictions.png").write_bytes(PNG)
    return folder


def study(folder: Path, seeds: int = 1) -> Study:
    """A study of two arms whose runs are all done."""
    arms = sweep.resolve(TINY, [], {"two": {"moe.num_experts": "2"}, "four": {}}).arms
    facts = {"name": "s", "question": "?", "config": TINY, "common": [], "split": SPLIT, "baseline": "two"}
    made = studies.planned(folder, facts, arms, [{"arm": "nine", "why": "too many"}], seeds)
    studies.write(made)
    configs = {arm.name: arm.config for arm in arms}
    for one in made.runs:
        shutil.rmtree(made.workdir(one), ignore_errors=True)
        run(made.workdir(one), configs[one.arm])
    return made


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def summary() -> dict[str, Any]:
    return {"result": "finished after 24 steps", "best_step": 24, "best_epoch": 2.4, "training_time": "0:21",
            "devices": "1 x cpu", "jax": "0.10.2", "validation": {"accuracy": 0.1}}  # fmt: skip


def records(train: int = 3, validation: int = 1) -> list[dict[str, Any]]:
    found = [
        {"kind": "train", "step": n, "epoch": n / 10, "loss": 2 / n, "accuracy": n / (train + 1),
         "images_per_second": 100.0 + n, "moe_cnn/load": [0.5, 0.5]}
        for n in range(1, train + 1)
    ]  # fmt: skip
    figures = {"loss": 1.5, "accuracy": 0.25, "mean_class_accuracy": 0.25, "macro_f1": 0.125}
    epochs = [train * n / validation / 10 for n in range(1, validation + 1)]
    return found + [{"kind": "validation", "step": n, "epoch": epoch, **figures} for n, epoch in enumerate(epochs)]


def evaluation() -> dict[str, Any]:
    found = documents.full_evaluation(random.Random(0))
    return found | {"asked": SPLIT, "step": 24, "split": "fer2013/train (held out)"}


def answers(examples: int = 40) -> Answers:
    """Of a network with 4 experts that guesses."""
    rng = np.random.default_rng(0)
    logits, flipped = rng.standard_normal((2, examples, 7)).astype(np.float32)
    p = rng.dirichlet(np.ones(4), examples).astype(np.float32)
    routing = {"moe_cnn": (p, np.argsort(-p, 1)[:, :2].astype(np.int32))}
    numbers, label = np.arange(examples, dtype=np.int32), rng.integers(0, 7, examples).astype(np.int32)
    return Answers(tuple(documents.CLASSES), numbers, label, logits, flipped, routing, np.abs(logits))
