"""Which numbers a field takes, as part of its type: `width: PositiveInt = 512`. Nothing is checked by itself."""

from collections.abc import Callable
from typing import Annotated, NamedTuple


class Range(NamedTuple):
    """What `Annotated` holds beside the type: the rule as the end of a sentence, and whether a number keeps to it."""

    rule: str
    holds: Callable[[float], bool]


_POSITIVE = Range("must be above 0", lambda x: x > 0)
_NOT_NEGATIVE = Range("must not be below 0", lambda x: x >= 0)
PositiveInt = Annotated[int, _POSITIVE]
PositiveFloat = Annotated[float, _POSITIVE]
NonNegativeInt = Annotated[int, _NOT_NEGATIVE]
NonNegativeFloat = Annotated[float, _NOT_NEGATIVE]
Fraction = Annotated[float, Range("must be at least 0 and below 1", lambda x: 0 <= x < 1)]
