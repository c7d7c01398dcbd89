"""ExpressNet-MoE for facial-expression recognition, in JAX (Banerjee, Gothwal, Biswas; arXiv 2510.13493).

import expressnet_jax
model = expressnet_jax.load("artifacts/small")
for picture in model.predict(["a.jpg", "b.jpg"]): ...

The functions here are the public API, which the commands call too; docs/python.md shows them at work. Mistakes of users
are raised as `data_pipelines.common.errors.Failure` (`weight_files.WeightsError` is the one that is none): the message
is one line. JAX and all else is imported by the first call.

Legend: B image, H W height and width, S the network's picture side.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expressnet_jax.version import __version__

if TYPE_CHECKING:
    import os
    from pathlib import Path
    from typing import Literal, TypeAlias

    import ml_collections

    from expressnet_jax.config import Config
    from expressnet_jax.models.expressnet import ExpressNet
    from expressnet_jax.predict.recognizer import Model

    StrPath: TypeAlias = str | os.PathLike[str]
    AnyConfig: TypeAlias = StrPath | Mapping[str, Any] | ml_collections.ConfigDict | Config

__all__ = ["__version__", "create_model", "evaluate", "export", "load", "load_config", "train"]


def load_config(config: AnyConfig, overrides: Mapping[str, Any] | None = None) -> Config:
    """A checked config: frozen dataclasses, as expressnet_jax/config/settings.py describes them.

    Args:
        config: a packaged name ("fer2013_small"), the path of a file, either with a recipe after a colon
            ("fer2013:paper"); or settings as nested dicts or a ConfigDict, of which those that are missing have the
            published values; or a `Config`.
        overrides: values by dotted key, {"moe.num_experts": 8}; as texts they may be written as on the command line.
            "model.preset" is applied first, since it sets many sizes.

    Raises:
        ConfigError: an unknown name, key or value, or settings that do not fit together.
    """
    from expressnet_jax.config import files

    return files.load(config, list((overrides or {}).items()))


def create_model(config: AnyConfig, *, seed: int | None = None) -> ExpressNet:
    """The network that a run of this config begins with, as a `flax.nnx.Module`.

    `model(images, mask=None, train=False, rngs=None)` takes images (B, S, S, 3) float32, as
    `models.preprocess.preprocess` makes them of pictures (B, H, W, 3) or (B, H, W, 1), and returns `logits`
    (B, classes) float32, `features` and `routing` by part. With `train`, BatchNorm takes the batch's statistics and
    updates its own, and dropout wants `rngs=nnx.Rngs(dropout=...)`.

    Args:
        config: anything that `load_config` takes.
        seed: of the parameters; None: the config's. Weights that `config.init` names are loaded in place of them, and
            a line says where they expect another `config.preprocess`.

    Raises:
        ConfigError, WeightsError: the config is wrong, or the weights of `config.init` do not fit.
    """
    from data_pipelines.common.text import say
    from expressnet_jax.models import expressnet
    from expressnet_jax.runs import restore

    made = load_config(config, {} if seed is None else {"seed": seed})
    model, lines = restore.initial_model(made)
    for line in lines:
        say(line)
    return model or expressnet.create(made, made.seed)


def train(
    config: AnyConfig,
    workdir: StrPath,
    *,
    data_dir: StrPath | None = None,
    track: Literal["wandb", "mlflow"] | None = None,
) -> dict[str, Any]:
    """Trains, or goes on with the run in `workdir`, as `expressnet train` does. To be called in the main thread.

    Args:
        config: anything that `load_config` takes.
        workdir: the folder of the run, new, or with a run of the same config.
        data_dir: where prepared data sets are; None: TensorFlow Datasets' own folder.
        track: where metrics go besides `workdir`; what fails there is a warning.

    Returns:
        The summary, which is also summary.json in `workdir`: `result`, `best_step`, `validation` with `accuracy`,
        `mean_class_accuracy`, `macro_f1` (fractions) and `loss` (nats), `times` in seconds by what they went into.

    Raises:
        ConfigError: the config is wrong, or `workdir` holds a run of another one.
        DataError: data that are missing or damaged, or a folder that cannot be written.
        Diverged: the loss is lost.
        Interrupted: SIGTERM or SIGINT came; all is saved, and the same call goes on.
    """
    from expressnet_jax.evaluation import of_run
    from expressnet_jax.parallel import distributed
    from expressnet_jax.train import loop

    folder = _path("workdir", workdir)
    summary = loop.train(load_config(config), folder, data_dir=_data_dir(data_dir), track=track)
    if distributed.is_first():
        of_run.curves(folder)
    return summary


def evaluate(
    workdir: StrPath, *, data: str | None = None, split: str | None = None, data_dir: StrPath | None = None,
    robustness: bool = False, saliency: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Evaluates the best checkpoint of the run in `workdir`, as `expressnet evaluate` does.

    Args:
        workdir: the folder of a run.
        data: another prepared data set, whose classes are matched by name; None: the run's own.
        split: one of its splits, a sum of them ("public_test+private_test"), or "held_out"; None: the config's.
        data_dir: where prepared data sets are; None: TensorFlow Datasets' own folder.
        robustness: also under pose, occlusion, light, blur and more.
        saliency: also what each branch of the network looks at.

    Returns:
        The summary, which is also summary.json in `workdir`/evaluation/<data>_<split>, beside its text, all answers and
        pictures: `accuracy`, `mean_class_accuracy`, `macro_f1` (fractions), `accuracy_interval` (95 %), `per_class`.

    Raises:
        ConfigError, CheckpointError, DataError: there is no run, checkpoint, data set or split of that name.
    """
    from expressnet_jax.evaluation import of_run

    return of_run.evaluate_run(
        _path("workdir", workdir), data=data, split=split, data_dir=_data_dir(data_dir),
        robust=robustness, salient=saliency,
    )[0]  # fmt: skip


def export(
    workdir: StrPath, out: StrPath, formats: str | Sequence[str] = ("safetensors",), *, step: int | None = None,
    raw: bool = False, dtype: Literal["float32", "bfloat16"] = "float32",
    quantize: Literal["float16", "int8"] | None = None, calibrated: bool = True, data_dir: StrPath | None = None,
    overwrite: bool = False, onnxruntime_web: StrPath | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes an artifact from a checkpoint of the run in `workdir`, as `expressnet export` does, or nothing.

    Args:
        workdir: the folder of a run.
        out: the artifact's folder.
        formats: of safetensors, stablehlo, onnx, savedmodel, web; also with commas between them. The weights are always
            written. Every graph takes `images` (B, H, W, 3) uint8 in RGB, of any size.
        step: of a checkpoint; None: the best one.
        raw: the last step's weights, not those averaged over steps.
        dtype: of the stored weights; graphs compute in float32.
        quantize: a further ONNX file in lower precision, with its measured differences.
        calibrated: whether the logits are divided by the temperature that the held-out examples ask for.
        data_dir: where prepared data sets are; None: TensorFlow Datasets' own folder.
        overwrite: whether `out` may replace an artifact.
        onnxruntime_web: for "web", what `npm pack onnxruntime-web@VERSION` leaves; None: the one in the current folder.

    Returns:
        Facts of the artifact: `files` with their bytes, `step`, `digest`, `compared` by format, and more.

    Raises:
        ConfigError: what is asked for cannot be, or `out` is taken.
        ArtifactError: a graph answers differently from the checkpoint.
        CheckpointError: there is no such checkpoint.
    """
    from expressnet_jax.export import from_run

    return from_run.export(
        _path("workdir", workdir), formats.split(",") if isinstance(formats, str) else formats, _path("out", out),
        step=step, ema=not raw, dtype=dtype, quantize=quantize, data_dir=_data_dir(data_dir), overwrite=overwrite,
        calibrated=calibrated,
        onnxruntime_web=None if onnxruntime_web is None else _path("onnxruntime_web", onnxruntime_web),
    )  # fmt: skip


def load(
    path: StrPath, *, faces: str | None = None, faces_model: StrPath | None = None, batch_size: int | None = None,
    mirrored: bool = False,
) -> Model:  # fmt: skip
    """An artifact of `export`, checked as a whole, ready to predict.

    Args:
        path: its folder, a zip of that, or a snapshot (or the whole folder of a repository) in Hugging Face's cache.
        faces: a detector, of data_pipelines.faces.detectors.NAMES: each face that it finds is cut out and answered.
            "none": pictures are taken whole. None: as the training pictures were prepared, with a warning where that
            cannot be.
        faces_model: the model file that some detectors need.
        batch_size: pictures that the device is given at once; fewer are padded and cost as much, so to answer single
            pictures one by one, give 1. None: what keeps this kind of device busy.
        mirrored: answers the mean of the probabilities for a picture and its mirror image, which `evaluate` measures
            too ("flip"): a little more accurate, at twice the work. The experts named are those of the picture.

    Returns:
        A model whose `predict` and `stream` take paths, folders, patterns, videos, PIL images, and arrays (H, W),
        (H, W, 1), (H, W, 3) in RGB or (H, W, 4) with an alpha that is dropped, uint8 of any size.

    Raises:
        ArtifactError: no artifact, or a damaged one.
        DataError: the detector cannot be had.
        PredictError: a batch of no size.
    """
    from expressnet_jax.predict import recognizer

    detector = None if faces_model is None else str(_path("faces_model", faces_model))
    return recognizer.load(
        _path("path", path), faces=faces, faces_model=detector, batch_size=batch_size, mirrored=mirrored
    )


def _path(what: str, path: StrPath) -> Path:
    from data_pipelines.common.files import local

    return local(what, path)


def _data_dir(data_dir: StrPath | None) -> str | None:
    return None if data_dir is None else str(_path("data_dir", data_dir))


class _Package(types.ModuleType):
    """Keeps `train` and `export` the functions: importing the subpackages of the same names would replace them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
