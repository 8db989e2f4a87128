"""Few numbers in about as many bits as their entropy: adaptive frequencies, and an asymmetric numeral system.

What was seen in a context becomes likely there. A number that is new in it is escaped to the next context, and at last
written as one of its alphabet (PPM, method D: Howard and Vitter 1993). The intervals that this gives are collected in
one large number, without any loss (Duda 2013), which takes more than linear time: for up to some thousands of numbers.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import takewhile

from flower_kd.errors import InputError

_MOST_SEEN = 200  # in a context: the time to find a number grows with it


class _Frequencies:
    """How often numbers were seen in each context; both sides count the same."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, dict[int, int]] = {}

    def of(self, context: Hashable) -> tuple[dict[int, int], int, int]:
        """Return frequencies in a context, their sum, and the frequency of a number that is not among them."""
        seen = self._seen.setdefault(context, {})
        return seen, sum(seen.values()), len(seen)

    def count(self, value: int, contexts: tuple[Hashable, ...]) -> None:
        """Note that a number was seen in contexts."""
        for context in contexts:
            seen = self._seen[context]
            if value in seen:
                seen[value] += 2
            elif len(seen) < _MOST_SEEN:
                seen[value] = 1


class Numbers:
    """Whole numbers to be written."""

    def __init__(self) -> None:
        self._frequencies = _Frequencies()
        self._intervals: list[tuple[int, int, int]] = []  # first, size, of how many

    def write(self, value: int, alphabet: int, *contexts: Hashable) -> None:
        """Append a number from 0 to `alphabet` - 1, which may depend on contexts: the most telling one first."""
        tried = 0
        for context in contexts:
            tried += 1
            seen, total, new = self._frequencies.of(context)
            if value in seen:
                first = sum(seen[other] for other in takewhile(value.__ne__, seen))
                self._intervals.append((first, seen[value], total + new))
                break
            if seen:
                self._intervals.append((total, new, total + new))
        else:
            self._intervals.append((value, 1, alphabet))
        self._frequencies.count(value, contexts[:tried])

    def bytes(self) -> bytes:
        """Return what was written."""
        number = 0
        for first, size, of in reversed(self._intervals):
            whole, rest = divmod(number, size)
            number = whole * of + first + rest
        return number.to_bytes((number.bit_length() + 7) // 8, "little")


class NumbersRead:
    """The numbers in the bytes of `Numbers`, to be read with the same alphabets and contexts."""

    def __init__(self, data: bytes) -> None:
        self._frequencies = _Frequencies()
        self._number = int.from_bytes(data, "little")

    def read(self, alphabet: int, *contexts: Hashable) -> int:
        """Return the next number."""
        tried = 0
        for context in contexts:
            tried += 1
            seen, total, new = self._frequencies.of(context)
            if not seen:
                continue
            whole, place = divmod(self._number, total + new)
            if place >= total:
                self._number = whole * new + place - total
                continue
            value, first = _at(place, seen)
            self._number = whole * seen[value] + place - first
            break
        else:
            self._number, value = divmod(self._number, alphabet)
        self._frequencies.count(value, contexts[:tried])
        return value

    def end(self) -> None:
        """Raise InputError unless everything was read."""
        if self._number:
            raise InputError("there are more coded numbers than expected")


def _at(place: int, seen: dict[int, int]) -> tuple[int, int]:
    """Return the number in whose interval a place is, and the first place of this interval."""
    first = 0
    for value, size in seen.items():
        if place < first + size:
            return value, first
        first += size
    raise ValueError(place)
