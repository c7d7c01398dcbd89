"""Evaluates a run's best checkpoint, and leaves text, JSON and pictures of it in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from data_pipelines.splits import Split
from expressnet_jax.config import ConfigError
from expressnet_jax.evaluation import evaluator, figures, metrics
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.train import data as datas
from expressnet_jax.train import hooks, program, restore, run_folder


def evaluate_run(
    workdir: Path, *, data: str | None = None, split: str | None = None, data_dir: str | None = None
) -> tuple[dict[str, Any], str]:
    """Evaluates the best checkpoint of a run on one split; by default the test split of its config.

    `split` may be "validation" for the examples that the run itself held out. Returns the summary and its text, and
    writes both, a confusion matrix and a picture of predictions to `workdir`/evaluation/<data>_<split>/.
    """
    config = run_folder.read_config(workdir)
    if data and not split:
        raise ConfigError(f"--data {data} needs --split")
    mesh = meshes.for_evaluation(config)
    config = meshes.even_batch(config, mesh)
    with distributed.together():
        examples = datas.open_for_evaluation(
            config, data or config.data.name, split or config.data.test_split, data_dir
        )
    restored, at = restore.restore_best(config, workdir, mesh)
    evaluate = program.evaluation(config, mesh)
    with jax.set_mesh(mesh):  # which tells the large kernels how many devices share a batch
        summary = evaluator.evaluate(config, evaluate, restored, examples, mesh)
        few = evaluator.examples(config, evaluate, restored, examples, mesh, 40)
    summary = {"workdir": str(workdir), "step": at, **summary}
    left_out = [name for name, known in zip(examples.classes, examples.known, strict=True) if not known]
    note = f"\nonly the classes that both have; not in this data set: {', '.join(left_out)}" if left_out else ""
    text = f"{examples.name}, checkpoint of step {at} of {workdir}{note}\n\n{metrics.describe(summary)}"
    folder = workdir / "evaluation" / examples.name.translate(str.maketrans("/ ", "__", "()"))
    if distributed.is_first():
        _write(folder, summary, text, examples, few)
    return summary, f"{text.rstrip()}\n\nwritten to {folder}"


def _write(folder: Path, summary: dict[str, Any], text: str, examples: Split, few: evaluator.Examples) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run_folder.write_text(folder / "summary.json", run_folder.json_line(summary))
    run_folder.write_text(folder / "summary.txt", text.rstrip() + "\n")
    figures.confusion_figure(summary, folder / "confusion.png", examples.name)
    figures.predictions_figure(
        few.images, few.labels, few.probabilities.argmax(-1), few.probabilities, examples.classes,
        folder / "predictions.png",
    )  # fmt: skip


def curves(workdir: Path) -> None:
    """Draws the training and validation curves of a run to curves.png, the experts' shares to experts.png."""
    records = hooks.read_records(workdir)
    figures.curves_figure(records, workdir / "curves.png")
    figures.experts_figure(records, workdir / "experts.png")
