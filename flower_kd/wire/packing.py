"""Whole numbers below a bound, packed to exactly log2 of the bound bits each."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flower_kd.errors import InputError

LARGEST_ALPHABET = 2**63 - 1  # symbols are int64
_WORDS = 256  # of 63 bits, that become one integer: larger ones take more than linear time


def pack(symbols: np.ndarray, alphabet: int) -> bytes:
    """Return symbols [n], from 0 to `alphabet` - 1, as the digits of large numbers in the base `alphabet`."""
    per_word, _ = _per_word(alphabet)
    block = per_word * _WORDS
    return b"".join(_pack_block(symbols[start : start + block], alphabet) for start in range(0, len(symbols), block))


def unpack(data: bytes, count: int, alphabet: int) -> np.ndarray:
    """Return `count` symbols, [count] of int64.

    Raises
    ------
    InputError
        If the bytes are not those of so many symbols.
    """
    if len(data) != packed_bytes(count, alphabet):
        raise InputError(f"{len(data)} bytes where {packed_bytes(count, alphabet)} were expected")
    per_word, _ = _per_word(alphabet)
    block = per_word * _WORDS
    symbols, offset = np.empty(count, np.int64), 0
    for start in range(0, count, block):
        part = symbols[start : start + block]
        size = _block_bytes(len(part), alphabet)
        part[:] = _unpack_block(data[offset : offset + size], len(part), alphabet)
        offset += size
    return symbols


def packed_bytes(count: int, alphabet: int) -> int:
    """Return the number of bytes of `count` packed symbols."""
    block = _per_word(alphabet)[0] * _WORDS
    return count // block * _block_bytes(block, alphabet) + _block_bytes(count % block, alphabet)


@lru_cache(maxsize=64)
def _per_word(alphabet: int) -> tuple[int, np.ndarray]:
    """Return how many symbols fit into 63 bits, and the values of their digits."""
    count, base = 1, alphabet
    while alphabet > 1 and base * alphabet <= LARGEST_ALPHABET:
        count, base = count + 1, base * alphabet
    count = count if alphabet > 1 else 2**20
    return count, np.array([alphabet**place for place in range(min(count, 64))], np.int64)


@lru_cache(maxsize=256)
def _block_bytes(count: int, alphabet: int) -> int:
    return ((alphabet**count - 1).bit_length() + 7) // 8


def _pack_block(symbols: np.ndarray, alphabet: int) -> bytes:
    size = _block_bytes(len(symbols), alphabet)
    if size == 0:
        return b""
    per_word, digits = _per_word(alphabet)
    words = -(-len(symbols) // per_word)
    padded = np.zeros(words * per_word, np.int64)
    padded[: len(symbols)] = symbols
    numbers, base = (padded.reshape(words, per_word) @ digits).tolist(), alphabet**per_word
    while len(numbers) > 1:
        numbers += [0] * (len(numbers) % 2)
        numbers = [low + high * base for low, high in zip(numbers[::2], numbers[1::2], strict=True)]
        base *= base
    return int(numbers[0]).to_bytes(size, "little")


def _unpack_block(data: bytes, count: int, alphabet: int) -> np.ndarray:
    number = int.from_bytes(data, "little")
    if number >= alphabet**count:
        raise InputError("a number that is too large for its symbols")
    per_word, digits = _per_word(alphabet)
    if not data:
        return np.zeros(count, np.int64)
    words = -(-count // per_word)
    bases = [alphabet**per_word]
    while 2 ** len(bases) < words:
        bases.append(bases[-1] ** 2)
    numbers = [number]
    for base in reversed(bases if words > 1 else []):
        numbers = [part for whole in numbers for part in reversed(divmod(whole, base))]
    padded = np.array(numbers[:words], np.int64)[:, None] // digits % alphabet
    return padded.reshape(-1)[:count]
