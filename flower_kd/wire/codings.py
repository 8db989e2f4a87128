"""How encoded rows become bytes (`wire-coding`): plain, entropy coded, or as what changed since the last message.

A message consists of its form, the CRC-32 of all rows, and one of: all rows; the places of those that changed, and
these rows; the changes of symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from flower_kd.errors import InputError, unknown
from flower_kd.wire.changes import MOST_CHANGES, MOST_ROWS, read_changes, write_changes
from flower_kd.wire.places import pack_places, unpack_places
from flower_kd.wire.records import digest
from flower_kd.wire.streams import Reader, number, read_rows, read_symbols, write_rows, write_symbols

Coding = Literal["plain", "entropy", "delta"]
CODINGS: tuple[str, ...] = get_args(Coding)

_FULL, _DELTA, _CHANGES = range(3)
_FEW = 256  # rows, of which a delta may take more bytes than all of them


@dataclass(frozen=True)
class Rows:
    """What the rows of a message consist of, which both sides know.

    Parameters
    ----------
    count : int
        Number of rows.
    widths : sequence of (int, int)
        Items in each part of a row, and bytes of each item.
    alphabet : int
        Number of symbols if a row is one symbol, an unsigned integer of `widths`; 0 if not.
    """

    count: int
    widths: Sequence[tuple[int, int]]
    alphabet: int = 0

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return sum(items * size for items, size in self.widths)

    def write(self, rows: np.ndarray, *, entropy: bool) -> bytes:
        """Return some of the rows, uint8 [n, bytes], in the shortest way."""
        if self.alphabet:
            return write_symbols(self.symbols(rows), self.alphabet, entropy=entropy)
        return write_rows(rows, self.widths, entropy=entropy)

    def read(self, reader: Reader, count: int) -> np.ndarray:
        """Return rows that `write` wrote."""
        if self.alphabet:
            return self.from_symbols(read_symbols(reader, count, self.alphabet))
        return read_rows(reader, count, self.widths)

    def symbols(self, rows: np.ndarray) -> np.ndarray:
        """Return rows that are symbols as numbers, int64 [n]."""
        return rows.view(f"<u{self.width}")[:, 0].astype(np.int64)

    def from_symbols(self, symbols: np.ndarray) -> np.ndarray:
        """Return the rows, uint8 [n, bytes], that these symbols are."""
        return symbols.astype(f"<u{self.width}")[:, None].view(np.uint8)


def check(name: str) -> None:
    """Raise InputError for an unknown coding."""
    if name not in CODINGS:
        raise InputError(unknown("wire-coding", name, list(CODINGS)))


def write(rows: np.ndarray, of: Rows, coding: str, base: np.ndarray | None = None) -> bytes:
    """Return rows as a message has them.

    Parameters
    ----------
    rows : ndarray
        uint8, [rows, bytes].
    of : Rows
        What they consist of.
    coding : {"plain", "entropy", "delta"}
        "delta" needs a base, without one it is "entropy".
    base : ndarray, optional
        The rows that the other side has, of the same shape.
    """
    checksum = _checksum(rows).to_bytes(4, "little")
    if coding != "delta" or base is None:
        return bytes([_FULL]) + checksum + of.write(rows, entropy=coding != "plain")
    changed = np.flatnonzero((rows != base).any(axis=1))
    if of.alphabet and of.count <= MOST_ROWS and len(changed) <= MOST_CHANGES:
        delta = bytes([_CHANGES]) + checksum + write_changes(of.symbols(rows), of.symbols(base), of.alphabet)
    else:
        delta = bytes([_DELTA]) + checksum + number(len(changed)) + pack_places(changed)
        delta += of.write(rows[changed], entropy=True)
    if 4 * len(changed) <= of.count >= _FEW:  # a delta is always shorter
        return delta
    return min(delta, write(rows, of, "entropy"), key=len)


def read(data: bytes, of: Rows, base: np.ndarray | None = None) -> np.ndarray:
    """Return the rows in a message, uint8 [rows, bytes].

    Raises
    ------
    InputError
        If the bytes are not those of such rows, or need a base and there is none, or another one.
    """
    reader = Reader(data)
    form, expected = reader.byte(), int.from_bytes(reader.take(4), "little")
    if form == _FULL:
        rows = of.read(reader, of.count)
    elif form != _DELTA and not (form == _CHANGES and of.alphabet):
        raise InputError(f"they have the unknown form {form}")
    elif base is None:
        raise InputError("they are a delta, without a base to apply it to")
    elif form == _CHANGES:
        rows = of.from_symbols(read_changes(reader.take(len(reader.rest)), of.symbols(base), of.alphabet))
    else:
        count = reader.number(of.count)
        changed, size = unpack_places(reader.rest, count, of.count)
        reader.take(size)
        rows = base.copy()
        rows[changed] = of.read(reader, len(changed))
    reader.end()
    if _checksum(rows) != expected:
        raise InputError("their checksum is wrong: corrupt" + (", or a delta for another base" if form else ""))
    return rows


def _checksum(rows: np.ndarray) -> int:
    return digest({"rows": rows})
