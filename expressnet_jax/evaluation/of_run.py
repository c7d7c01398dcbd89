"""Evaluates a run's best checkpoint in depth, and leaves text, JSON, answers and pictures of it in the run's folder."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines import splits
from data_pipelines.common import prose
from data_pipelines.common.errors import DataError
from data_pipelines.common.files import check_folder, read_object, write_text
from data_pipelines.common.text import counted, json_line
from data_pipelines.splits import Split
from expressnet_jax.config import Config, ConfigError
from expressnet_jax.evaluation import answers as answering
from expressnet_jax.evaluation import depth, experts, factors, robustness, saliency, tables
from expressnet_jax.evaluation.answers import Answers
from expressnet_jax.figures import pictures, plots
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import data as datas
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore, state

_SHOWN = 40  # pictures of predictions.png
_SALIENT = 8  # pictures of saliency.png
_CHOSEN = 0.05  # of a split, validated on too; by equal pictures alone 0.7 % of FER-2013's public_test are held out

#: Parts of a summary that are there where they were asked for, and the pictures of each.
_OPTIONAL = {"robustness": ("robustness.png", "corruptions.png"), "saliency": ("saliency.png",)}


class _Found(NamedTuple):
    """What an evaluation has found, before it is written."""

    summary: dict[str, Any]
    answers: Answers
    split: Split
    maps: Any  # of `saliency.maps`, or None


def evaluate_run(
    workdir: Path, *, data: str | None = None, split: str | None = None, data_dir: str | None = None,
    robust: bool = False, salient: bool = False,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    """Evaluates the best checkpoint of a run on one split; by default the test split of its config.

    `split` may be "held_out" or "validation" for the examples that the run itself held out. `robust` adds accuracy
    under corruptions, `salient` what each branch looks at. Returns the summary and its text, and writes both, every
    answer (answers.npz) and pictures to `workdir`/evaluation/<data>_<split>/: before the parts that were asked for, and
    again after each of them.
    """
    config = run_folder.read_config(workdir)
    if data and not split:
        raise ConfigError(f"--data {data} needs --split")
    mesh = meshes.for_evaluation(config)
    config = meshes.even_batch(config, mesh)
    name, asked = data or config.data.name, split or config.data.test_split
    why = ""
    with distributed.together():
        data_dir = run_folder.data_dir(workdir, data_dir)
        try:
            own: datas.TrainingData | None = datas.open_data(config, data_dir)
        except DataError as error:  # the data that the run was trained on is not on this machine, or damaged
            own, why = None, str(error)
        examples = datas.open_for_evaluation(config, name, asked, data_dir, own)
        folder = workdir / "evaluation" / examples.name.translate(str.maketrans("/ ", "__", "()"))
        if distributed.is_first():
            check_folder("--workdir", folder)
    if why:
        distributed.say(f"without what needs the run's own data: {why}")
    own = own if distributed.all_agree(own is not None) else None
    restored, at = restore.restore_best(config, workdir, mesh)
    with jax.set_mesh(mesh):  # which tells the large kernels how many devices share a batch
        found = _evaluate(config, restored, examples, own, mesh)
    # A study finds its runs' evaluations by what was asked for, of the runs' own data set.
    asked_of_own = asked if name == config.data.name else None
    summary = {"workdir": str(workdir), "step": at, "asked": asked_of_own, **found.summary}
    found = found._replace(summary=summary | _kept(folder, summary))
    distributed.barrier("read what is kept")
    text = _written(folder, found)
    for part in [part for part, asked_for in (("robustness", robust), ("saliency", salient)) if asked_for]:
        try:
            with jax.set_mesh(mesh):
                found = _further(part, config, restored, found, mesh)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; all but what was to come of {part} is in {folder}") from None
        text = _written(folder, found)
    more = "; accuracy by what the faces were drawn with is in summary.txt there" if summary["factors"] else ""
    distributed.say(f"written to {folder}{more}")
    return found.summary, text


def _evaluate(
    config: Config, restored: state.State, examples: Split, own: datas.TrainingData | None, mesh: jax.sharding.Mesh
) -> _Found:
    step = answering.program(config, mesh)
    found = answering.collect(config, step, restored, examples, mesh)
    other, chosen_on = (None, None) if own is None else _validated(own.validation, examples)
    fitted = None if other is None else (other.name, answering.collect(config, step, restored, other, mesh))
    summary = {
        "split": examples.name,
        "chosen_on": chosen_on,
        **answering.summarize(found, config.label_smoothing),
        "depth": depth.of(found, fitted=fitted, leaked=_leaked(examples, own)),
        "experts": experts.of(found),
        "factors": factors.by_factor(examples, found.index, found.right),
        **dict.fromkeys(_OPTIONAL),
    }
    return _Found(summary, found, examples, None)


def _further(part: str, config: Config, restored: state.State, found: _Found, mesh: jax.sharding.Mesh) -> _Found:
    """What was found, with one of the parts that take long."""
    examples, answers = found.split, found.answers
    if part == "robustness":
        measured = robustness.measure(config, restored, examples, mesh)
        return found._replace(summary=found.summary | {part: measured})
    shown = examples.spread(_SALIENT)
    images = examples.load(shown)["image"]
    maps = saliency.maps(config, restored, images, answers.predicted[shown], answers.index[shown])
    shares = {"shares": saliency.shares(maps), "examples": len(shown)}
    return found._replace(summary=found.summary | {part: shares}, maps=maps)


def _validated(validation: Split, examples: Split) -> tuple[Split | None, bool]:
    """The validation examples that a temperature can be fitted on, which are those that are not evaluated; and whether
    the run's best checkpoint was chosen on the evaluated ones. Pictures are compared by their pixels, since splits
    overlap, and data sets too."""
    judged = splits.repeated(validation, [examples])
    chosen_on = bool(splits.repeated(examples, [validation]).mean() > _CHOSEN)
    if not judged.any():
        return validation, chosen_on
    rest = validation.part(~judged, f"without {counted(judged.sum(), 'evaluated picture')}")
    return (rest if len(rest) else None), chosen_on


def _leaked(examples: Split, own: datas.TrainingData | None) -> np.ndarray | None:
    """(N,) bool: which pictures the run was trained on too; None where they could not be equal, having other sizes."""
    trained = [] if own is None else [own.train, *(split for split, _ in own.also)]
    alike = [split for split in trained if split.shape[:2] == examples.shape[:2]]
    return splits.repeated(examples, alike) if alike else None


def _kept(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """What an earlier evaluation of the same checkpoint found and this one was not asked for: it took long."""
    before = read_object(folder / "summary.json")
    same = all(before.get(key) == summary[key] for key in ("step", "split", "examples", "accuracy"))
    return {key: before.get(key) for key in _OPTIONAL if same and summary[key] is None}


def text_of(part: str, found: Any, classes: Sequence[str] = ()) -> str:
    """A part of a summary as plain text: "depth", "experts", "factors", "robustness" or "saliency"; or the whole of it
    as its "heading" or its "metrics".

    classes: names of the (C,) classes for the experts, and of those that the data set lacks for the heading.
    """
    return prose.filled(
        __file__, f"{part}.txt.j2", found=found, classes=classes, bounds=(depth.LOWEST, depth.HIGHEST),
        log=math.log, tables=tables,
    )  # fmt: skip


def _written(folder: Path, found: _Found) -> str:
    """The text of what was found, once the first process has written it all."""
    summary, examples = found.summary, found.split
    lacking = [name for name, known in zip(examples.classes, examples.known, strict=True) if not known]
    shown = [part for part in ("depth", "experts", *_OPTIONAL) if summary[part]]
    parts = [text_of("heading", summary, lacking), text_of("metrics", summary)]
    parts += [text_of(part, summary[part], summary["classes"]) for part in shown]
    text = "\n\n".join(parts)
    if distributed.is_first():
        _write(folder, found, text)
    return text


def _write(folder: Path, found: _Found, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # it comes back last, and says that all is there
    for key, names in _OPTIONAL.items():
        for name in names if found.summary[key] is None else ():
            (folder / name).unlink(missing_ok=True)
    answering.save(found.answers, folder / "answers.npz")
    drawn = f"\n\n{text_of('factors', found.summary['factors'])}" if found.summary["factors"] else ""
    write_text(folder / "summary.txt", f"{text}{drawn}\n")
    _draw(folder, found)
    write_text(folder / "summary.json", json_line(found.summary))


def _draw(folder: Path, found: _Found) -> None:
    summary, answers, split = found.summary, found.answers, found.split
    plots.confusion_figure(summary, folder / "confusion.png", split.name)
    shown = split.spread(_SHOWN)
    probabilities = depth.probabilities(answers.logits)
    pictures.predictions_figure(
        split.load(shown)["image"], answers.label[shown], answers.predicted[shown], probabilities[shown],
        split.classes, folder / "predictions.png",
    )  # fmt: skip
    positions = {int(number): position for position, number in enumerate(answers.index)}
    for layer, of_layer in summary["experts"].items():
        rows = [[positions[one["index"]] for one in ours] for ours in of_layer["surest"]]
        surest = [split.load(np.array(row, int))["image"] if row else None for row in rows]
        pictures.surest_figure(surest, of_layer, summary["classes"], folder / f"surest_{layer}.png", layer)
    if summary["robustness"]:
        plots.robustness_figure(summary["robustness"], folder / "robustness.png")
        examples = robustness.examples(split.load(shown[:1])["image"][0])
        pictures.corruptions_figure(examples, summary["robustness"]["strengths"], folder / "corruptions.png")
    if found.maps is not None:
        salient = split.spread(_SALIENT)
        names = [split.classes[i] for i in answers.predicted[salient]]
        parts, averages = saliency.parts(found.maps), summary["saliency"]["shares"]
        images = split.load(salient)["image"]
        pictures.saliency_figure(images, found.maps, parts, averages, names, folder / "saliency.png")


def curves(workdir: Path) -> None:
    """Draws the training and validation curves of a run to curves.png, the experts' shares to experts.png."""
    records = run_folder.read_records(workdir)
    plots.training_figure(records, workdir / "curves.png")
    plots.experts_figure(records, workdir / "experts.png")
