"""Emotion names, and how every spelling that data sets use maps onto them.

The order of labels differs from data set to data set and from release to release, so nothing in this project
passes a class *number* from one place to another without its list of names beside it.
"""

import difflib
import re

#: The canonical names, in the order that every data set of this project stores them.
EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

#: The seven basic classes of FER-2013, RAF-DB and AffectNet-7.
SEVEN = tuple(name for name in EMOTIONS if name != "contempt")

#: Class numbers of fer2013.csv (Goodfellow et al. 2013), by name: the CSV's order is not alphabetical.
FER2013_CODES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")

#: Class numbers of RAF-DB's basic set (Li, Deng and Du 2017), which count from 1, by name.
RAFDB_CODES = {
    1: "surprise", 2: "fear", 3: "disgust", 4: "happiness", 5: "sadness", 6: "anger", 7: "neutral",
}  # fmt: skip

#: Class numbers of AffectNet (Mollahosseini, Hasani and Mahoor 2017), by name; 8 to 10 are no emotions.
AFFECTNET_CODES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")

#: Data sets whose pictures are grey.
GREY = ("fer2013", "ferplus")

_SPELLINGS = {
    "anger": "anger", "angry": "anger",
    "contempt": "contempt", "contemptuous": "contempt",
    "disgust": "disgust", "disgusted": "disgust",
    "fear": "fear", "fearful": "fear", "afraid": "fear", "scared": "fear",
    "happiness": "happiness", "happy": "happiness", "joy": "happiness",
    "neutral": "neutral", "neutrality": "neutral",
    "sadness": "sadness", "sad": "sadness",
    "surprise": "surprise", "surprised": "surprise",
}  # fmt: skip


def canonical(name: str) -> str | None:
    """The canonical emotion for a data set's own spelling ("Happy", "sad", "SURPRISE"); None for any other word."""
    return _SPELLINGS.get(name.strip().lower())


def near(word: str) -> str | None:
    """The spelling of an emotion that a word, itself none, comes near ("suprise", "0_angry"); None for other words."""
    letters = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", word.lower())
    return next(iter(difflib.get_close_matches(letters, _SPELLINGS, n=1, cutoff=0.65)), None)


def positions(names: tuple[str, ...], within: tuple[str, ...]) -> list[int]:
    """For each class in `names` its number in `within`, or -1 where `within` does not have it."""
    return [within.index(name) if name in within else -1 for name in names]
