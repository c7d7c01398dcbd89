"""Labels travel by name: every spelling to one canonical name, every order checked against its data set."""

import pytest

from data_pipelines import labels


@pytest.mark.parametrize(
    ("spelling", "emotion"),
    [
        ("Angry", "anger"),
        ("disgusted", "disgust"),
        ("FEAR", "fear"),
        (" happy ", "happiness"),
        ("Neutral", "neutral"),
        ("sad", "sadness"),
        ("Surprised", "surprise"),
        ("contempt", "contempt"),
    ],
)
def test_spellings_become_canonical(spelling: str, emotion: str) -> None:
    assert labels.canonical(spelling) == emotion


def test_canonical_names_are_their_own_spelling() -> None:
    assert [labels.canonical(name) for name in labels.EMOTIONS] == list(labels.EMOTIONS)


@pytest.mark.parametrize("spelling", ["", "0", "hapy", "none", "test"])
def test_unknown_spelling_has_no_label(spelling: str) -> None:
    assert labels.canonical(spelling) is None


def test_seven_is_alphabetical_without_contempt() -> None:
    assert labels.SEVEN == ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
    assert set(labels.EMOTIONS) - set(labels.SEVEN) == {"contempt"}


def test_order_of_the_csv_is_not_alphabetical() -> None:
    assert sorted(labels.FER2013_CODES) == list(labels.SEVEN)
    assert labels.FER2013_CODES.index("neutral") == 6
    assert labels.SEVEN.index("neutral") == 4


def test_positions_map_by_name() -> None:
    assert labels.positions(labels.FER2013_CODES, labels.SEVEN) == [0, 1, 2, 3, 5, 6, 4]
    assert labels.positions(("contempt", "fear"), labels.SEVEN) == [-1, 2]
