"""Random streams that depend on nothing but a run's seed and what they are for."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def derive(seed: int, purpose: str, *indices: int) -> int:
    """Return a 63-bit seed for one purpose, the same on every machine and engine.

    Parameters
    ----------
    seed : int
        The run's seed, not negative.
    purpose : str
        What the stream is for: two purposes never share a stream.
    indices : int
        What tells the streams of one purpose apart, such as vertex and round.
    """
    words = np.random.SeedSequence([seed, crc32(purpose.encode()), *indices]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])
