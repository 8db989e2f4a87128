"""Figures and settings as text, the same on pages, in tables and in pictures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

MISSING = "-"
SECONDS = "of whole runs; the first of a process also imports code and decodes data"


def as_text(value: Any) -> str:
    """Return the value of a setting as the user would type it."""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def as_toml(value: Any) -> str:
    """Return the value of a setting as in a config file."""
    return json.dumps(value, ensure_ascii=False, default=str)


def percent(share: float, unit: str = "") -> str:
    """Return a share of 1 in percent, or the sign for a missing value."""
    return MISSING if np.isnan(share) else f"{100 * share:.1f}{unit}"


def points(difference: float) -> str:
    """Return the difference of two shares in percentage points."""
    return f"{100 * difference:+.1f}"


def times(ratio: float) -> str:
    """Return a ratio."""
    return f"{ratio:,.1f} times"


def megabytes(count: float) -> str:
    """Return a number of bytes in units of 10^6."""
    return short(count / 1e6)


def short(value: float) -> str:
    """Return a number with three significant digits, or all its integer digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else np.format_float_positional(value, 3, fractional=False, trim="-")
