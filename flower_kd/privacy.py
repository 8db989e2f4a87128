"""The privacy loss of nodes that send logits with noise (`wire-noise`), by Google's dp-accounting.

A message with noise is a Gaussian mechanism for all private data of its node, and n messages, also if each depends on
those before, are together one with a noise multiplier smaller by sqrt(n) (Dong, Roth and Su 2022, corollary 3.3). Its
epsilon at a delta is that of Balle and Wang (2018), which is exact.
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from typing import Any

from flower_kd.errors import InputError
from flower_kd.ranges import require_number, require_whole

DELTA = 1e-5
DELTAS = (1e-5, 1e-6, 1e-8)  # of a run's summary


@cache
def accountant() -> Any:
    """Return the module dp_accounting; raises InputError if it is not installed."""
    try:
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise InputError(
            f"the privacy loss of wire-noise cannot be accounted: {error} (install it with: "
            "pip install 'flower-kd[privacy]')"
        ) from None


def epsilon(multiplier: float, messages: int, delta: float = DELTA) -> float:
    """Return the epsilon of a node that sends so many messages with noise: they are (epsilon, delta)-private.

    Parameters
    ----------
    multiplier : float
        `multiplier` of `wire-noise`, above 0.
    messages : int
        Their number; a strategy of E exchanges has E - 1 at most, as nodes send nothing in the last one.
    delta : float
        Above 0, below 1.

    Raises
    ------
    InputError
        If a value is out of range, or dp-accounting is not installed.

    Examples
    --------
    >>> round(epsilon(1.0, messages=1), 4)
    4.3772
    """
    _check(messages, delta)
    require_number("multiplier", multiplier, above=0)
    return float(accountant().get_epsilon_gaussian(multiplier / math.sqrt(messages), delta))


def multiplier(epsilon: float, messages: int, delta: float = DELTA) -> float:
    """Return the multiplier of `wire-noise` for which messages are (epsilon, delta)-private: the inverse of `epsilon`.

    Examples
    --------
    >>> round(multiplier(8.0, messages=4), 4)
    1.2005
    """
    _check(messages, delta)
    require_number("epsilon", epsilon, above=0)
    return float(accountant().get_sigma_gaussian(epsilon, delta)) * math.sqrt(messages)


def _check(messages: int, delta: float) -> None:
    require_whole("messages", messages, 1)
    require_number("delta", delta, above=0)
    if delta >= 1:
        raise InputError(f"delta = {delta} must be below 1")
