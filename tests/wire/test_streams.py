import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flower_kd.errors import InputError
from flower_kd.wire.streams import Reader, number, read_rows, read_symbols, write_rows, write_symbols


@given(
    count=st.integers(0, 3000),
    distinct=st.integers(1, 3000),
    alphabet=st.sampled_from([2, 10, 256, 257, 5000, 65_536, 65_537, 10**9, 2**62]),
    entropy=st.booleans(),
)
@example(count=5000, distinct=2000, alphabet=10**6, entropy=True)  # a palette whose places need two bytes
@settings(deadline=None, max_examples=60)
def test_symbols_survive(count: int, distinct: int, alphabet: int, entropy: bool) -> None:
    rng = np.random.default_rng(count)
    symbols = rng.choice(rng.integers(0, alphabet, distinct), count)
    data = write_symbols(symbols, alphabet, entropy=entropy)
    reader = Reader(data)
    assert np.array_equal(read_symbols(reader, count, alphabet), symbols)
    reader.end()
    assert len(data) <= len(write_symbols(symbols, alphabet, entropy=False))


@given(
    count=st.integers(1, 300),
    distinct=st.integers(1, 300),
    widths=st.lists(st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=3),
    entropy=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_rows_survive(count: int, distinct: int, widths: list[tuple[int, int]], entropy: bool) -> None:
    rng = np.random.default_rng(count)
    palette = rng.integers(0, 9, (distinct, sum(items * size for items, size in widths)), dtype=np.uint8)
    rows = palette[rng.integers(0, distinct, count)]
    reader = Reader(write_rows(rows, widths, entropy=entropy))
    assert np.array_equal(read_rows(reader, count, widths), rows)
    reader.end()


@given(value=st.integers(0, 2**62))
def test_numbers_take_7_bits_a_byte(value: int) -> None:
    data = number(value)
    assert Reader(data).number(2**62) == value
    assert len(data) == max(-(-value.bit_length() // 7), 1)
    with pytest.raises(InputError, match="out of range"):
        Reader(number(value + 1)).number(value)
    with pytest.raises(InputError, match="truncated"):
        Reader(data[:-1]).number(2**62)
