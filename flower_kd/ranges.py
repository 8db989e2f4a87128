"""Ranges of numbers given by users: as annotations, and as checks."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Annotated, Any

from annotated_types import Interval

from flower_kd.errors import InputError

LARGEST = 2**63 - 1  # the largest integer in a Flower record

# Annotations of parameters and run-config keys (flower_kd.annotations).
Whole = Annotated[int, Interval(ge=0, le=LARGEST)]
"""Whole numbers from 0."""
Count = Annotated[int, Interval(ge=1, le=LARGEST)]
"""Whole numbers from 1."""
Share = Annotated[float, Interval(ge=0, le=1)]
"""Numbers from 0 to 1."""
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
"""Numbers above 0, up to 1."""
LossProbability = Annotated[float, Interval(ge=0, lt=1)]
"""Numbers from 0, below 1."""
UpToHalf = Annotated[float, Interval(ge=0, le=0.5)]
"""Numbers from 0 to 0.5."""
Momentum = Annotated[float, Interval(ge=0, le=0.999)]
"""Numbers from 0 to 0.999."""
NonNegative = Annotated[float, Interval(ge=0)]
"""Numbers from 0."""
Positive = Annotated[float, Interval(gt=0)]
"""Numbers above 0."""


def problem(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf) -> str:
    """Return in one sentence why a number is not finite, in [low, high] and greater than `above`; empty if it is."""
    if math.isfinite(value) and low <= value <= high and value > above:
        return ""
    bounds = [] if math.isfinite(value) else ["finite"]
    bounds += [f"above {above:g}"] if above > -math.inf else []
    bounds += [f"at least {low:g}"] if low > -math.inf else []
    bounds += [f"at most {high:g}"] if high < math.inf else []
    return f"{name} = {value} must be {' and '.join(bounds)}"


def require_whole(name: str, value: Any, low: int, high: int = LARGEST) -> None:
    """Raise InputError unless a value is a whole number in [low, high]; booleans are refused."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} = {value!r} must be a whole number, at least {low}")
    number = int(value)
    if not low <= number <= high:
        raise InputError(f"{name} = {number} must be at least {low}{f' and at most {high}' if number > high else ''}")


def require_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf
) -> None:
    """Raise InputError unless a value is a number in the range of `problem`; booleans are refused."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} = {value!r} must be a number")
    found = problem(name, value, low, high, above=above)
    if found:
        raise InputError(found)
