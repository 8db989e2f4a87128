"""What changed between two lists of symbols, in about as many bits as it says.

Which symbols change depends on what they were: a label that few rows have changes more often than others, and it often
changes to the same one. So places are written as subsets of the rows that had the same symbol, each subset as its
number among those of its size (Cover 1973), and new symbols with adaptive frequencies given the old one.
"""

from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np

from flower_kd.errors import InputError
from flower_kd.wire.adaptive import Numbers, NumbersRead
from flower_kd.wire.packing import packed_bytes

MOST_ROWS, MOST_CHANGES = 2**16, 2**12  # the time grows with the square of the number of changes
_FEWEST, _MOST = 128, 1024  # rows in a group: the sizes of subsets are written, and the numbers of subsets are long
_ANY = "any"  # the context of all old symbols


def write_changes(symbols: np.ndarray, base: np.ndarray, alphabet: int) -> bytes:
    """Return what must be known beside a base to read `symbols`, both whole numbers below `alphabet`, [n]."""
    order, starts = _groups(base)
    new, old = symbols[order], base[order]
    changed = new != old
    numbers = Numbers()
    for start, stop in pairwise(starts):
        places = np.flatnonzero(changed[start:stop]).tolist()
        numbers.write(len(places), stop - start + 1)
        numbers.write(subset_number(places, stop - start), comb(stop - start, len(places)))
    for before, after in zip(old[changed].tolist(), new[changed].tolist(), strict=True):
        numbers.write(after, alphabet, before, _ANY)
    return numbers.bytes()


def read_changes(data: bytes, base: np.ndarray, alphabet: int) -> np.ndarray:
    """Return symbols, int64 [n], from the result of `write_changes`; raises InputError if it cannot be one."""
    if len(base) > MOST_ROWS or len(data) > packed_bytes(len(base), alphabet) + len(base):
        raise InputError("more changes than there can be")
    order, starts = _groups(base)
    numbers, places = NumbersRead(data), []
    for start, stop in pairwise(starts):
        size = numbers.read(stop - start + 1)
        number = numbers.read(comb(stop - start, size))
        places += [start + place for place in subset(number, size, stop - start)]
        if len(places) > MOST_CHANGES:
            raise InputError("more changes than there can be")
    symbols = base.astype(np.int64)
    for row in order[places].tolist():
        symbols[row] = numbers.read(alphabet, int(base[row]), _ANY)
    numbers.end()
    return symbols


def subset_number(places: list[int], among: int) -> int:
    """Return the number of a subset of the places 0 to `among` - 1, in the combinatorial number system."""
    chosen, left, number = set(places), len(places), 0
    ways = comb(among - 1, left)  # of choosing the places that are left below `place`
    for place in range(among - 1, 0, -1):
        if place in chosen:
            number += ways
            ways, left = ways * left // place, left - 1
        else:
            ways = ways * (place - left) // place
    return number


def subset(number: int, size: int, among: int) -> list[int]:
    """Return the places of a subset of this size, ascending, from its `subset_number`."""
    found, left = [], size
    ways = comb(among - 1, left)
    for place in range(among - 1, -1, -1):
        if left == 0:
            break
        if number >= ways:
            found.append(place)
            number -= ways
            ways, left = ways * left // max(place, 1), left - 1
        else:
            ways = ways * (place - left) // place
    return found[::-1]


def _groups(base: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return rows in an order that has those with equal symbols together, the most frequent first, and where to cut."""
    _, kinds, counts = np.unique(base, return_inverse=True, return_counts=True)
    starts, rows = [0], 0
    for count in sorted(counts.tolist(), reverse=True):
        rows += count
        while rows - starts[-1] > _MOST:
            starts.append(starts[-1] + _MOST)
        if rows - starts[-1] >= _FEWEST:
            starts.append(rows)
    if starts[-1] < rows:
        starts.append(rows)
    return np.lexsort((base, -counts[kinds])), starts
