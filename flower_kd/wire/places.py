"""Ascending places as Golomb-Rice codes of the gaps between them (Rice and Plaunt 1971)."""

from __future__ import annotations

import numpy as np

from flower_kd.errors import InputError

_MOST_LOW_BITS = 31


def pack_places(places: np.ndarray) -> bytes:
    """Return places [n] as bytes: the number of low bits; the low bits of all gaps; their high parts in unary."""
    if len(places) == 0:
        return b""
    gaps = np.diff(places, prepend=-1) - 1
    costs = [low * len(gaps) + int((gaps >> low).sum()) for low in range(_MOST_LOW_BITS + 1)]
    low = int(np.argmin(costs))
    low_bits = (gaps[:, None] >> np.arange(low)).astype(np.uint8) & 1
    ends = np.cumsum((gaps >> low) + 1)  # a gap's high part is that many zeros, then a one
    unary = np.zeros(ends[-1], np.uint8)
    unary[ends - 1] = 1
    return bytes([low]) + np.packbits(low_bits.reshape(-1)).tobytes() + np.packbits(unary).tobytes()


def unpack_places(data: bytes, count: int, below: int) -> tuple[np.ndarray, int]:
    """Return `count` places, int64 [count], and the number of their bytes, at the beginning of `data`.

    Raises
    ------
    InputError
        If the data do not begin with so many places below `below`.
    """
    if count == 0:
        return np.zeros(0, np.int64), 0
    low = data[0] if data else _MOST_LOW_BITS + 1
    start = 1 + (low * count + 7) // 8
    if low > _MOST_LOW_BITS or len(data) < start:
        raise InputError("the places of values are cut off")
    longest = ((below >> low) + count + 7) // 8
    ends = np.flatnonzero(np.unpackbits(np.frombuffer(data[start : start + longest], np.uint8)))[:count]
    if len(ends) < count:
        raise InputError(f"{len(ends)} places of {count} values")
    low_bits = np.unpackbits(np.frombuffer(data[1:start], np.uint8), count=low * count).reshape(count, low)
    high = np.diff(ends, prepend=-1) - 1
    gaps = (high << low) + (low_bits.astype(np.int64) << np.arange(low)).sum(axis=1)
    places = np.cumsum(gaps + 1) - 1
    if places[-1] >= below:
        raise InputError(f"place {places[-1]} where there are {below}")
    return places, start + int(ends[-1]) // 8 + 1
