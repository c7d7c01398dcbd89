"""How a network's accuracy falls when its pictures get worse, by the kind of damage and its strength."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from data_pipelines.common.text import counted
from data_pipelines.splits import Split
from expressnet_jax.config import Config
from expressnet_jax.evaluation import answers, corruptions
from expressnet_jax.evaluation.corruptions import STRENGTHS
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs.state import State

_EXAMPLE = 1  # what is drawn by chance is drawn for this one, whose eyes are covered


def measure(config: Config, state: State, split: Split, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Accuracy and macro F1 on a split under every corruption at every strength, ready for JSON.

    Pictures are corrupted on the device as they are stored, before all that the network does to them. All processes
    have to call this, under `jax.set_mesh(mesh)`.

    Returns {"strengths": 0..5, "examples", "corruptions": {name: {"accuracy", "macro_f1"}}, each a list over the
    strengths, of which 0 is the pictures as they are; "mean_accuracy" over the corruptions and the strengths 1..5;
    "relative", which is that divided by the accuracy at strength 0 (0 where that is 0)}.
    Raises DataError where the number of examples counted is not the split's.
    """
    # One program for the network, and one for all strengths of a corruption.
    count = answers.counter(config, mesh)
    corrupt = jax.jit(corruptions.stored, static_argnums=0, out_shardings=meshes.batch_sharding(mesh))
    kinds = [("", 0), *((name, strength) for name in corruptions.CORRUPTIONS for strength in STRENGTHS[1:])]
    counts = {kind: np.zeros((len(split.classes), len(split.classes)), np.int64) for kind in kinds}
    for batch in answers.batches(config, split, mesh, ", corrupted"):  # each is read once, for all kinds
        for name, strength in kinds:
            images = corrupt(name, batch["image"], batch["index"], strength) if name else batch["image"]
            counts[name, strength] += np.asarray(count(state, batch | {"image": images}, split.known)[0])
    found = {kind: answers.tally(confusion, split) for kind, confusion in counts.items()}
    table = {
        name: {key: [found[name if s else "", s][key] for s in STRENGTHS] for key in ("accuracy", "macro_f1")}
        for name in corruptions.CORRUPTIONS
    }
    plain = found["", 0]["accuracy"]
    mean = float(np.mean([row["accuracy"][1:] for row in table.values()]))
    return {
        "strengths": list(STRENGTHS), "examples": len(split), "corruptions": table,
        "mean_accuracy": mean, "relative": mean / plain if plain else 0.0,
    }  # fmt: skip


def examples(picture: np.ndarray) -> dict[str, list[np.ndarray]]:
    """One picture under every corruption at every strength, as an evaluation damages it, for a figure.

    picture: (H, W, C) uint8, C 1 or 3 (RGB), and so is each returned. Raises ValueError for anything else.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ValueError(f"the picture must be uint8 (H, W, 1 or 3), got {picture.dtype} {picture.shape}")
    corrupt = jax.jit(corruptions.stored, static_argnums=0)
    return {
        name: [np.asarray(corrupt(name, picture[None], np.array([_EXAMPLE]), strength))[0] for strength in STRENGTHS]
        for name in corruptions.CORRUPTIONS
    }


def describe(result: dict[str, Any]) -> str:
    """A result of `measure` as plain text: accuracy in per cent, a line for each corruption."""
    lines = [
        f"accuracy on corrupted pictures, {counted(result['examples'], 'example')}, in % (strength 0: as they are)",
        f"{'':16}{''.join(f'{strength:>7}' for strength in result['strengths'])}   mean of 1 to 5",
    ]
    for name, row in result["corruptions"].items():
        cells, mean = "".join(f"{100 * value:>7.1f}" for value in row["accuracy"]), np.mean(row["accuracy"][1:])
        lines.append(f"{name:16}{cells}{100 * mean:>17.1f}  {corruptions.CORRUPTIONS[name].description}")
    lines.append(f"mean {100 * result['mean_accuracy']:.1f} %, {result['relative']:.3f} of the accuracy at strength 0")
    return "\n".join(lines)
