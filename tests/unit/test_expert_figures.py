"""The pictures of experts: what each is surest of, and how much each is chosen."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from data_pipelines.labels import EMOTIONS
from expressnet_jax.figures import plots
from expressnet_jax.figures.pictures import surest_figure


def layer(experts, n=3):
    surest = [[{"index": i, "label": i % 8, "probability": 0.9 - 0.1 * i} for i in range(n)] for _ in range(experts)]
    return {"load": [1 / experts] * experts, "surest": surest}


def drawn(path, experts, value=200, channels=1, n=3):
    pictures = [np.full((n, 48, 48, channels), value, np.uint8) for _ in range(experts)]
    surest_figure(pictures, layer(experts, n), EMOTIONS, path, "moe_cnn")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pictures_are_drawn_in_their_own_greys(tmp_path, channels):
    image = drawn(tmp_path / "a.png", 2, 77, channels)
    # Six pictures of one colour: a sixth of the figure or so, and in that colour to the level.
    assert (image == 77).all(-1).mean() > 0.1


def test_an_expert_is_a_row_and_only_so_many_are_shown(tmp_path):
    two, four, many, more = (drawn(tmp_path / f"{e}.png", e).shape for e in (2, 4, 16, 40))
    assert two[1] == four[1] == many[1] and two[0] < four[0] < many[0] == more[0]


def test_an_expert_that_nobody_chose_first_has_a_row_of_its_own(tmp_path):
    of_layer = layer(3) | {"load": [0.5, 0.0, 0.5]}
    of_layer["surest"][1] = []
    picture = np.full((3, 48, 48, 1), 10, np.uint8)
    surest_figure([picture, None, picture], of_layer, EMOTIONS, tmp_path / "a.png", "moe_cnn")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[1] == drawn(tmp_path / "b.png", 3).shape[0]


def test_no_expert_with_a_picture_is_still_a_figure(tmp_path):
    surest_figure([None, None], {"load": [0.0, 0.0], "surest": [[], []]}, EMOTIONS, tmp_path / "a.png", "moe_cnn")
    assert (tmp_path / "a.png").stat().st_size


@pytest.mark.parametrize("experts", [4, 7, 8, 40])
def test_every_expert_is_named_with_its_share_in_a_colour_of_its_own(experts, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, _: figures.append(figure))
    last = np.arange(1, experts + 1) / np.arange(1, experts + 1).sum()
    loads = {"moe_cnn/load": last.tolist(), "moe_expression/load": last[::-1].tolist()}
    plots.experts_figure([{"kind": "train", "step": step, **loads} for step in (2, 4)], tmp_path / "experts.png")
    looks = []
    for axes, busiest in zip(figures[0].axes, (experts - 1, 0), strict=True):
        lines = {line.get_label(): to_hex(line.get_color()) for line in axes.lines[:-1]}
        shown = [text.get_text() for text in axes.get_legend().get_texts()]
        assert shown == [*lines, "an even share"] and len({*lines.values()}) == experts
        assert shown[0] == f"expert {busiest}: {last[-1]:.1%}"
        looks.append({label.partition(":")[0]: color for label, color in lines.items()})
    assert looks[0] == looks[1] and looks[0].keys() == {f"expert {e}" for e in range(experts)}
