"""The registered codecs: values as they are, in half precision, or quantized."""

from __future__ import annotations

import numpy as np

from flower_kd.wire.formats import CODECS
from flower_kd.wire.records import Arrays


@CODECS.register("float32")
class Float32:
    """Values as they are."""

    def encode(self, values: np.ndarray) -> Arrays:
        """Return the values."""
        return {"rows": values}

    def decode(self, arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        """Return the values."""
        return arrays["rows"]


@CODECS.register("float16")
class Float16:
    """Values in half precision: an error of at most 0.05%, from 6e-5 on."""

    def encode(self, values: np.ndarray) -> Arrays:
        """Return the values in half precision."""
        return {"rows": values.astype(np.float16)}

    def decode(self, arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        """Return the values."""
        return arrays["rows"]


@CODECS.register("uint8")
class Uint8:
    """Each row in 256 steps between its minimum and maximum: 6 bytes per row in addition to the codes.

    The error is at most 0.504 of the row's step (1/255 of its range), plus the rounding of float32.
    """

    def encode(self, values: np.ndarray) -> Arrays:
        """Return codes, and each row's minimum and step."""
        least = values.min(axis=-1, keepdims=True)
        scale = _upper_half((values.max(axis=-1, keepdims=True) - least) / np.float32(255))
        step = _from_upper_half(scale)
        codes = np.rint(np.divide(values - least, step, out=np.zeros_like(values), where=step > 0))
        return {"rows": codes.clip(0, 255).astype(np.uint8), "offset": least, "scale": scale}

    def decode(self, arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        """Return the values, rounded to their row's steps."""
        return arrays["rows"].astype(np.float32) * _from_upper_half(arrays["scale"]) + arrays["offset"]


def _upper_half(values: np.ndarray) -> np.ndarray:
    """Return the upper 16 bits of positive float32 values, rounded up: all of their range, with 8 bits of precision."""
    return ((values.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)


def _from_upper_half(halves: np.ndarray) -> np.ndarray:
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
