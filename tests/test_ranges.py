import math
from fractions import Fraction

import numpy as np
import pytest

from flower_kd.errors import InputError
from flower_kd.parts.values import checked
from flower_kd.ranges import require_number, require_whole


@pytest.mark.parametrize("value", [0, 3, np.int64(5), 2**63 - 1])
def test_whole_numbers(value: int) -> None:
    require_whole("steps", value, 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "steps = -1 must be at least 0"),
        (2.0, "steps = 2.0 must be a whole number, at least 0"),
        (True, "steps = True must be a whole number"),
        ("5", "steps = '5' must be a whole number"),
        (None, "steps = None must be a whole number"),
        (2**63, "steps = 9223372036854775808 must be at least 0 and at most 9223372036854775807"),
    ],
)
def test_what_is_not_a_whole_number(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_whole("steps", value, 0)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(1.5), Fraction(1, 3)])
def test_numbers(value: float) -> None:
    require_number("rho", value, 0, 2)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.inf, "rho = inf must be finite and above 0 and at most 2"),
        (math.nan, "rho = nan must be finite and above 0 and at most 2"),
        (0, "rho = 0 must be above 0 and at most 2"),
        (True, "rho = True must be a number"),
        ("1", "rho = '1' must be a number"),
        (1j, "must be a number"),
    ],
)
def test_what_is_not_a_number_in_range(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_number("rho", value, high=2, above=0)


def test_flags() -> None:
    assert checked("clamp", True, bool) is True
    with pytest.raises(InputError, match="clamp = 1 must be true or false"):
        checked("clamp", 1, bool)
