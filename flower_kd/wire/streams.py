"""Symbols and rows of bytes as short byte strings: packed, deflated, or as a palette of the distinct ones.

Every reader knows the number of symbols or rows before it reads, so that no claim in the bytes makes it allocate more
than a few times their size. What cannot be read raises InputError.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from flower_kd.errors import InputError
from flower_kd.wire.packing import pack, packed_bytes, unpack

_ONE_BYTE, _TWO_BYTES = 2**8, 2**16  # alphabets


class _Form(IntEnum):
    PLAIN = 0
    DEFLATED = 1
    PALETTE = 2


class Reader:
    """Reads bytes from the first to the last; raises InputError where they end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        end = self._offset + size
        if end > len(self._data):
            raise InputError("the coded bytes are truncated")
        found = self._data[self._offset : end]
        self._offset = end
        return found

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def number(self, most: int) -> int:
        """Return the next number written by `number`; raises InputError if it is larger than `most`."""
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if value > most or shift > 63:
                raise InputError("a number in the coded bytes is out of range")
            if byte < 128:
                return value
            shift += 7

    @property
    def rest(self) -> bytes:
        """All bytes that were not read yet."""
        return self._data[self._offset :]

    def end(self) -> None:
        """Raise InputError unless all bytes were read."""
        if self._offset != len(self._data):
            raise InputError("there are more coded bytes than expected")


def number(value: int) -> bytes:
    """Return a whole number in as few bytes as it needs, 7 bits each."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def write_symbols(symbols: np.ndarray, alphabet: int, *, entropy: bool) -> bytes:
    """Return symbols [n], from 0 to `alphabet` - 1, in the shortest way.

    Parameters
    ----------
    symbols : ndarray
        Whole numbers, [n].
    alphabet : int
        Number of different symbols that there can be.
    entropy : bool
        Whether frequent symbols may take fewer bits; if not, all take log2(alphabet).
    """
    plain = bytes([_Form.PLAIN]) + pack(symbols, alphabet)
    if not entropy or len(symbols) == 0:
        return plain
    if alphabet <= _TWO_BYTES:
        words = symbols.astype(f"<u{_symbol_bytes(alphabet)}")[:, None].view(np.uint8)
        plain = min(plain, bytes([_Form.DEFLATED]) + _deflated(words.T.tobytes()), key=len)
    palette, places = np.unique(symbols, return_inverse=True) if alphabet > _ONE_BYTE else (symbols, symbols)
    if 2 * len(palette) >= len(symbols) or len(palette) == alphabet:
        return plain
    parts = [number(len(palette)), pack(palette, alphabet), write_symbols(places, len(palette), entropy=True)]
    return min(plain, bytes([_Form.PALETTE]) + b"".join(parts), key=len)


def read_symbols(reader: Reader, count: int, alphabet: int, *, nested: bool = False) -> np.ndarray:
    """Return `count` symbols, [count] of int64, that `write_symbols` wrote."""
    match reader.byte():
        case _Form.PLAIN:
            return unpack(reader.take(packed_bytes(count, alphabet)), count, alphabet)
        case _Form.DEFLATED if alphabet <= _TWO_BYTES:
            width = _symbol_bytes(alphabet)
            planes = np.frombuffer(_inflated(reader, count * width), np.uint8).reshape(width, count)
            symbols = (planes.T.astype(np.int64) << (8 * np.arange(width))).sum(axis=1)
            if symbols.max(initial=0) >= alphabet:
                raise InputError(f"a symbol that is not below {alphabet}")
            return symbols
        case _Form.PALETTE if not nested:
            distinct = reader.number(count)
            palette = unpack(reader.take(packed_bytes(distinct, alphabet)), distinct, alphabet)
            if distinct == 0:
                raise InputError("a palette without entries")
            return palette[read_symbols(reader, count, distinct, nested=True)]
    raise InputError("the coded bytes are not those of symbols")


def _symbol_bytes(alphabet: int) -> int:
    return 1 if alphabet <= _ONE_BYTE else 2


def write_rows(rows: np.ndarray, widths: Sequence[tuple[int, int]], *, entropy: bool) -> bytes:
    """Return rows of bytes in the shortest way.

    Parameters
    ----------
    rows : ndarray
        uint8, [n, bytes].
    widths : sequence of (int, int)
        Number of items in each part of a row, and bytes of each: bytes of one place in an item are compressed together.
    entropy : bool
        Whether to compress; if not, only rows that are the same are written once.
    """
    own = _write_distinct(rows, widths, entropy=entropy)
    palette, places = _unique(rows)
    if 2 * len(palette) >= len(rows):
        return own
    parts = [
        number(len(palette)),
        _write_distinct(palette, widths, entropy=entropy),
        write_symbols(places, len(palette), entropy=entropy),
    ]
    return min(own, bytes([_Form.PALETTE]) + b"".join(parts), key=len)


def read_rows(reader: Reader, count: int, widths: Sequence[tuple[int, int]], *, nested: bool = False) -> np.ndarray:
    """Return `count` rows, uint8 [count, bytes], that `write_rows` wrote."""
    width = sum(items * size for items, size in widths)
    match reader.byte():
        case _Form.PLAIN:
            return np.frombuffer(reader.take(count * width), np.uint8).reshape(count, width)
        case _Form.DEFLATED:
            return _from_planes(_inflated(reader, count * width), count, widths)
        case _Form.PALETTE if not nested:
            distinct = reader.number(count)
            palette = read_rows(reader, distinct, widths, nested=True)
            if distinct == 0:
                raise InputError("a palette without entries")
            return palette[read_symbols(reader, count, distinct)]
    raise InputError("the coded bytes are not those of rows")


def _write_distinct(rows: np.ndarray, widths: Sequence[tuple[int, int]], *, entropy: bool) -> bytes:
    plain = bytes([_Form.PLAIN]) + rows.tobytes()
    return min(plain, bytes([_Form.DEFLATED]) + _deflated(_to_planes(rows, widths)), key=len) if entropy else plain


def _to_planes(rows: np.ndarray, widths: Sequence[tuple[int, int]]) -> bytes:
    """Return the first bytes of all items, then the second ones, and so on, for each part of the rows."""
    planes, start = [], 0
    for items, size in widths:
        part = rows[:, start : start + items * size].reshape(-1, size)
        planes.append(np.ascontiguousarray(part.T).tobytes())
        start += items * size
    return b"".join(planes)


def _from_planes(data: bytes, count: int, widths: Sequence[tuple[int, int]]) -> np.ndarray:
    parts, start = [], 0
    for items, size in widths:
        part = np.frombuffer(data, np.uint8, count * items * size, start).reshape(size, -1)
        parts.append(part.T.reshape(count, items * size))
        start += count * items * size
    return np.concatenate(parts, axis=1)


def _unique(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows and, for each row, which of them it is."""
    padded = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    words = padded.view("<u8")
    # Comparing one number a row is many times faster than comparing its bytes.
    factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64) | np.uint64(1)
    _, first, places = np.unique(words @ factors, return_index=True, return_inverse=True)
    if (rows[first][places] == rows).all():
        return rows[first], places
    return rows, np.arange(len(rows))  # two rows have the same number


def _deflated(data: bytes) -> bytes:
    """Return the length of the deflated data, and the data."""
    # Order within the data says nothing: Huffman's codes alone are shorter and faster than a search for repetitions.
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    found = compressor.compress(data) + compressor.flush()
    return number(len(found)) + found


def _inflated(reader: Reader, size: int) -> bytes:
    """Return the next deflated data, which must have `size` bytes."""
    data = reader.take(reader.number(2**40))
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = decompressor.decompress(data, size + 1)
    except zlib.error as error:
        raise InputError(f"the coded bytes cannot be inflated: {error}") from None
    if len(found) != size or not decompressor.eof or decompressor.unused_data:
        raise InputError(f"the coded bytes are not {size} deflated ones")
    return found
