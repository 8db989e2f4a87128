"""Codecs that send one symbol a row: the predicted class, or the nearest of few distributions."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated

import numpy as np
from annotated_types import Gt, Interval

from flower_kd.errors import InputError
from flower_kd.wire.formats import CODECS, LARGEST
from flower_kd.wire.packing import LARGEST_ALPHABET
from flower_kd.wire.records import Arrays

# The logit of a class whose probability is zero: float32 has no exp(-LARGEST / T) for T up to 600.
EXCLUDED = -LARGEST
_MOST_BITS = 8


@CODECS.register("labels")
class Labels:
    """The predicted class of each row, in log2(classes) bits.

    It is decoded to logits 0 for this class and -65504 for the others: their softmax is one-hot, exactly so in float32
    up to a temperature of 600. In a tie the first class is sent.
    """

    def alphabet(self, classes: int) -> int:
        """Return the number of classes."""
        return classes

    def encode(self, values: np.ndarray) -> Arrays:
        """Return each row's first largest class."""
        return {"rows": values.argmax(axis=-1).astype(np.min_scalar_type(values.shape[-1] - 1))}

    def decode(self, arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        """Return logits with a one-hot softmax."""
        values = np.full(shape, EXCLUDED, np.float32)
        np.put_along_axis(values, arrays["rows"].astype(np.int64)[..., None], 0.0, axis=-1)
        return values


@CODECS.register("simplex")
class Simplex:
    """Each row's softmax rounded to multiples of 1 / (2^bits - 1) that sum to 1.

    The rounding is that of largest remainders, and the grid's points are numbered: C(classes + 2^bits - 2, 2^bits - 1)
    of them, 220 for 10 classes and 2 bits, 7.8 bits a row. A row is decoded to `temperature` times the logarithms of
    its probabilities, -65504 for a zero: their softmax at this temperature is the point.

    Parameters
    ----------
    bits : int
        From 1, which is one class, to 8; many classes allow few bits (1,000 classes: 3).
    temperature : float
        T of the softmax that is rounded; in a run config that of the run, unless set in parentheses.
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, Interval(ge=1, le=_MOST_BITS)] = 2,
        temperature: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        self.bits = bits
        self.units = 2**bits - 1
        self.temperature = np.float32(temperature)

    def alphabet(self, classes: int) -> int:
        """Return the number of points; raises InputError if they cannot be numbered in 63 bits."""
        size = _points(classes, self.units)
        if size > LARGEST_ALPHABET:
            fits = max(bits for bits in range(1, self.bits) if _points(classes, 2**bits - 1) <= LARGEST_ALPHABET)
            raise InputError(
                f"simplex(bits={self.bits}) has too many points for {classes} classes (allowed: bits = 1 to {fits})"
            )
        return size

    def encode(self, values: np.ndarray) -> Arrays:
        """Return the number of each row's point."""
        classes = values.shape[-1]
        dtype = np.min_scalar_type(self.alphabet(classes) - 1)
        shares = _softmax(values.reshape(-1, classes), self.temperature) * np.float32(self.units)
        counts = np.floor(shares).astype(np.int64)
        left = self.units - counts.sum(axis=-1)
        remainders, rows = shares - counts, np.arange(len(counts))
        for _ in range(int(left.max(initial=0))):  # few times: faster than to sort
            largest = remainders.argmax(axis=-1)
            counts[rows, largest] += left > 0
            remainders[rows, largest] = -1
            left -= 1
        # A point is a sorted list of classes, one a unit, numbered by the combinatorial number system.
        units = np.repeat(np.tile(np.arange(classes), len(counts)), counts.reshape(-1)).reshape(-1, self.units)
        numbers = _ranks(classes, self.units)[units, np.arange(self.units)].sum(axis=-1)
        return {"rows": numbers.reshape(values.shape[:-1]).astype(dtype)}

    def decode(self, arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        """Return logits whose softmax, at the temperature, is the point."""
        classes = shape[-1]
        ranks = _ranks(classes, self.units)
        left = arrays["rows"].astype(np.int64).reshape(-1)
        rows = np.arange(len(left))
        counts = np.zeros((len(left), classes), np.float32)
        for unit in reversed(range(self.units)):
            found = np.searchsorted(ranks[:, unit], left, side="right") - 1
            left = left - ranks[found, unit]
            counts[rows, found] += 1
        logits = self.temperature * np.log(counts / np.float32(self.units))
        return np.maximum(logits, np.float32(EXCLUDED), dtype=np.float32).reshape(shape)


def _points(classes: int, units: int) -> int:
    return math.comb(classes + units - 1, units)


def _softmax(logits: np.ndarray, temperature: np.float32) -> np.ndarray:
    exponentials = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@lru_cache(maxsize=16)
def _ranks(classes: int, units: int) -> np.ndarray:
    """Return C(class + unit, unit + 1), [classes, units]: what a unit of a class adds to a point's number."""
    return np.array(
        [[math.comb(place + unit, unit + 1) for unit in range(units)] for place in range(classes)], np.int64
    )
