from typing import Annotated, Literal

import pytest
from annotated_types import Interval

from flower_kd.parts.description import described
from flower_kd.parts.signatures import settings_of
from flower_kd.parts.values import allowed
from flower_kd.ranges import Count, Whole


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "whole number"),
        (bool, "true or false"),
        (str, "text"),
        (Whole, "whole number, at least 0"),
        (Annotated[float, Interval(gt=0, lt=0.5)], "number, above 0 and below 0.5"),
        (Literal["thin", "thick"], "thin, thick"),
        (Count | None, "whole number, at least 1, or none"),
        (list[int], "any"),
    ],
)
def test_what_is_allowed(annotation: object, words: str) -> None:
    assert allowed(annotation) == words


def part(*, gamma: float = 0.0, degree: Count = 4, name: str, seed: int = 0) -> None:
    """Have settings, two of which are keys."""


def test_settings_that_are_keys_come_last() -> None:
    settings = settings_of(part)
    own = [("degree=4", "whole number, at least 1"), ("name", "required; text")]
    assert described(settings, {"gamma", "seed"}) == [*own, ("gamma, seed", "the keys' values")]
    assert described(settings, {"gamma"})[-1] == ("gamma", "the key's value")
    assert described({}, {"gamma"}) == []
