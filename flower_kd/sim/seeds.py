"""A run with several seeds: which ones, and what is said of their figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from flower_kd.errors import InputError

MIN_SEEDS_FOR_INTERVAL = 3
CONFIDENCE = 0.95


def parse(text: str, first: int) -> list[int]:
    """Return the seeds of `--seeds`.

    Parameters
    ----------
    text : str
        A number of seeds, counted from the first, or a list with commas.
    first : int
        The seed of the config.

    Raises
    ------
    InputError
        If it is neither, or a seed stands in the list twice.
    """
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"--seeds {text!r} must be a number of seeds, such as 3, or a list of them, such as 0,4,7")
    if "," in text:
        seeds = [int(part) for part in parts]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            raise InputError(f"--seeds {text!r} lists {twice} twice")
        return seeds
    if int(text) == 0:
        raise InputError("--seeds 0 must be at least 1")
    return list(range(first, first + int(text)))


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and how sure it is.

    Parameters
    ----------
    mean, low, high : float
        Of the figure itself; NaN where no seed has it.
    kind : str
        What low and high are.
    """

    mean: float
    low: float
    high: float
    kind: str


def interval(values: Sequence[float]) -> Interval:
    """Return the mean with its 95 % confidence interval (Student's t) for three values or more, else their range."""
    known = np.array([value for value in values if not np.isnan(value)])
    if len(known) == 0:
        return Interval(np.nan, np.nan, np.nan, "no value")
    mean = float(known.mean())
    if len(known) < MIN_SEEDS_FOR_INTERVAL:
        kind = "one seed" if len(known) == 1 else "lowest to highest"
        return Interval(mean, float(known.min()), float(known.max()), kind)
    # Not 1.96 standard errors: of three seeds it takes 4.3 of them to be right 95 times of 100.
    error = float(t.ppf(CONFIDENCE + (1 - CONFIDENCE) / 2, len(known) - 1) * known.std(ddof=1)) / len(known) ** 0.5
    return Interval(mean, mean - error, mean + error, f"{CONFIDENCE:.0%} confidence")
