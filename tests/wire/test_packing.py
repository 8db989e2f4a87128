import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flower_kd.errors import InputError
from flower_kd.wire.packing import LARGEST_ALPHABET, pack, packed_bytes, unpack


@given(
    alphabet=st.integers(1, 300) | st.integers(1, LARGEST_ALPHABET), count=st.integers(0, 600), seed=st.integers(0, 99)
)
@example(alphabet=10, count=30_000, seed=0)
@example(alphabet=LARGEST_ALPHABET, count=700, seed=0)
@example(alphabet=1, count=1_100_000, seed=0)
@example(alphabet=2**32 + 1, count=257, seed=0)
@settings(deadline=None)
def test_symbols_survive_in_as_many_bits_as_they_need(alphabet: int, count: int, seed: int) -> None:
    symbols = np.random.default_rng(seed).integers(0, alphabet, count)
    symbols[: count // 3] = alphabet - 1
    data = pack(symbols, alphabet)
    assert np.array_equal(unpack(data, count, alphabet), symbols)
    assert len(data) == packed_bytes(count, alphabet)
    blocks = 1 + count * math.log2(alphabet) / (256 * 31)  # each of which ends with a whole byte
    assert 8 * len(data) <= count * math.log2(alphabet) + 8 * blocks + 1e-6


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "0 bytes where 1 were expected"), (b"\x00\x00", "2 bytes where 1"), (b"\xff", "a number that is too large")],
)
def test_other_bytes_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        unpack(data, 2, 10)


def test_whatever_bits_are_read_symbols_are_in_range() -> None:
    for first in range(256):
        try:
            assert unpack(bytes([first]), 2, 10).max() < 10
        except InputError:
            assert first >= 100
