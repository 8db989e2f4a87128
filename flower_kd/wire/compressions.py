"""The registered compressions of weights: none, 8 bits, and the largest values only.

Values are rounded to the nearest of 255 steps, not at random as in QSGD (Alistarh et al., NeurIPS 2017): nodes remember
what rounding left out, so it need not be right on average (Karimireddy et al., ICML 2019), and the error of nearest
rounding is never above the value itself, however large the network.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from annotated_types import Interval

from flower_kd.wire.compression import COMPRESSIONS, NONE, Shapes
from flower_kd.wire.places import pack_places, unpack_places
from flower_kd.wire.records import Arrays

LEVELS = 127  # steps from 0 to the largest absolute value


@COMPRESSIONS.register(NONE)
class Uncompressed:
    """Weights as they are."""

    def compress(self, update: Arrays) -> Arrays:
        """Return the values."""
        return update

    def decompress(self, arrays: Arrays, shapes: Shapes) -> Arrays:
        """Return the values."""
        return arrays


@COMPRESSIONS.register("uint8")
class Uint8:
    """Each array in 255 steps around 0, the largest absolute value being 127 of them: a byte per parameter.

    The error of a value is at most half a step, and never above the value.
    """

    consensus_step = 1.0

    def compress(self, update: Arrays) -> Arrays:
        """Return codes of all arrays, one after the other, and each array's step."""
        rounded = [_rounded(change.reshape(-1)) for change in update.values()]
        return {
            "codes": np.concatenate([codes for codes, _ in rounded]) if rounded else np.zeros(0, np.uint8),
            "steps": np.array([step for _, step in rounded], np.float32),
        }

    def decompress(self, arrays: Arrays, shapes: Shapes) -> Arrays:
        """Return the values, rounded to their array's steps."""
        codes, steps = arrays["codes"], arrays["steps"]
        if codes.shape != (_count(shapes),) or steps.shape != (len(shapes),):
            raise ValueError(f"{codes.shape} codes and {steps.shape} steps for {_count(shapes)} values")
        return _split(_values(codes, np.repeat(steps, [math.prod(shape) for shape in shapes.values()])), shapes)


@COMPRESSIONS.register("top-k")
class TopK:
    """The largest absolute values over all arrays together, in 8 bits, and where they are: about 2 bytes per value.

    Of d values the k = `share` d largest are kept, so that the squared error is at most 1 - k/d of the squared norm
    (Stich, Cordonnier and Jaggi, NeurIPS 2018), plus that of rounding. Values are rounded as by `uint8` (as in Basu et
    al., Qsparse-local-SGD, NeurIPS 2019). Gaps between places are Golomb-Rice coded (Rice and Plaunt 1971): 8.1 bits
    each if one place in a hundred is kept. The consensus step of `d-sgd` is min(1, 6 `share`) unless it is set.

    Parameters
    ----------
    share : float
        Share of the values that is sent, in (0, 1]; at least one value.
    """

    def __init__(self, *, share: Annotated[float, Interval(gt=0, le=1)] = 0.01) -> None:
        self.share = share
        # At a tenth, the best of 0.3, 0.6 and 1 on digits, exchanging every 25 steps. Larger steps at smaller shares
        # may diverge: 0.3 at a hundredth, exchanging every step, did on MNIST.
        self.consensus_step = min(1.0, 6 * share)

    def compress(self, update: Arrays) -> Arrays:
        """Return step, codes and places as bytes of one array: each array in a message has a header of 128 bytes."""
        values = np.concatenate([change.reshape(-1) for change in update.values()] or [np.zeros(0, np.float32)])
        kept = self._kept(len(values))
        places = np.sort(np.argpartition(np.abs(values), len(values) - kept)[len(values) - kept :])
        codes, step = _rounded(values[places])
        packed = np.frombuffer(pack_places(places), np.uint8)
        return {"packed": np.concatenate([np.array([step]).view(np.uint8), codes, packed])}

    def decompress(self, arrays: Arrays, shapes: Shapes) -> Arrays:
        """Return the values at their places, and 0 elsewhere."""
        packed, total = arrays["packed"], _count(shapes)
        kept = self._kept(total)
        if packed.ndim != 1 or len(packed) < 4 + kept:
            raise ValueError(f"{packed.shape} bytes for {kept} of {total} values")
        values = np.zeros(total, np.float32)
        places, size = unpack_places(packed[4 + kept :].tobytes(), kept, total)
        if len(packed) != 4 + kept + size:
            raise ValueError(f"{len(packed) - 4 - kept - size} bytes after the places")
        values[places] = _values(packed[4 : 4 + kept], packed[:4].view(np.float32)[0])
        return _split(values, shapes)

    def _kept(self, total: int) -> int:
        return min(total, max(1, math.ceil(self.share * total)))


def _rounded(values: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return signed codes of 8 bits, as bytes, and the step between two."""
    step = np.float32(np.abs(values).max(initial=0.0) / np.float32(LEVELS))
    if step == 0:
        return np.zeros(len(values), np.uint8), step
    return np.rint(values / step).clip(-LEVELS, LEVELS).astype(np.int8).view(np.uint8), step


def _values(codes: np.ndarray, step: np.ndarray | np.float32) -> np.ndarray:
    return codes.view(np.int8).astype(np.float32) * step


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _split(values: np.ndarray, shapes: Shapes) -> Arrays:
    """Return one array of all values as arrays of the given shapes."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    parts = np.split(values, ends) if shapes else []
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
