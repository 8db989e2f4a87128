"""Confidence intervals of figures over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # scipy.stats would take half a second to import

MIN_SEEDS_FOR_INTERVAL = 3
CONFIDENCE = 0.95

ONE_SEED = "one seed"
RANGE = "lowest to highest"
CONFIDENCE_INTERVAL = f"{CONFIDENCE:.0%} confidence"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its interval.

    Parameters
    ----------
    mean, low, high : float
        Mean and bounds of the figure; NaN if no seed has it.
    kind : str
        Meaning of low and high.
    """

    mean: float
    low: float
    high: float
    kind: str


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean with its 95 % confidence interval (Student's t) for three values or more, else their range."""
    known = np.array([value for value in values if not np.isnan(value)])
    if len(known) == 0:
        return Interval(np.nan, np.nan, np.nan, "no value")
    mean = float(known.mean())
    if len(known) < MIN_SEEDS_FOR_INTERVAL:
        kind = ONE_SEED if len(known) == 1 else RANGE
        return Interval(mean, float(known.min()), float(known.max()), kind)
    # Not 1.96 standard errors: for three seeds, a 95 % interval needs 4.3 of them.
    quantile = stdtrit(len(known) - 1, CONFIDENCE + (1 - CONFIDENCE) / 2)
    error = float(quantile * known.std(ddof=1)) / len(known) ** 0.5
    return Interval(mean, mean - error, mean + error, CONFIDENCE_INTERVAL)
