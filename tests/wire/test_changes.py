"""Deltas of symbols: subsets by number, adaptive frequencies, and both together."""

from itertools import combinations
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_kd.errors import InputError
from flower_kd.wire import adaptive
from flower_kd.wire.adaptive import Numbers, NumbersRead
from flower_kd.wire.changes import MOST_ROWS, read_changes, subset, subset_number, write_changes


@pytest.mark.parametrize("among", range(1, 8))
def test_subsets_are_numbered_from_0_without_gaps(among: int) -> None:
    for size in range(among + 1):
        subsets = [list(places) for places in combinations(range(among), size)]
        assert sorted(subset_number(places, among) for places in subsets) == list(range(len(subsets)))
        assert all(subset(subset_number(places, among), size, among) == places for places in subsets)


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 3))))
def test_numbers_survive_in_any_contexts(written: list[tuple[int, int]]) -> None:
    numbers = Numbers()
    for value, context in written:
        numbers.write(value, 2**63, context, "any")
        numbers.write(value % 5, 5)
    found = NumbersRead(numbers.bytes())
    for value, context in written:
        assert found.read(2**63, context, "any") == value
        assert found.read(5) == value % 5
    found.end()


def test_frequent_numbers_take_few_bits() -> None:
    rng, numbers = np.random.default_rng(0), Numbers()
    values = rng.choice(4, 2000, p=[0.9, 0.06, 0.03, 0.01])
    for value in values.tolist():
        numbers.write(value, 4, "all")
    entropy = -sum(log2(share) for share in np.bincount(values)[values] / 2000) / 8
    assert entropy < len(numbers.bytes()) < 1.05 * entropy + 4


@given(st.integers(1, 2**63 - 1), st.integers(1, 400), st.integers(0, 2**32), st.floats(0, 1))
def test_changes_survive(alphabet: int, count: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    base, other = rng.integers(alphabet, size=(2, count))
    symbols = np.where(rng.random(count) < share, other, base)
    data = write_changes(symbols, base, alphabet)
    assert (read_changes(data, base, alphabet) == symbols).all()


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_no_change_takes_no_bytes(count: int) -> None:
    base = np.random.default_rng(0).integers(10, size=count)
    assert write_changes(base, base, 10) == b""
    assert (read_changes(b"", base, 10) == base).all()


def test_changes_that_depend_on_the_old_symbol_take_fewer_bytes_than_others() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(10, size=5000)
    changed = rng.random(5000) < np.where(base < 2, 0.3, 0.01)
    after = write_changes(np.where(changed, (base + 1) % 10, base), base, 10)
    anywhere = rng.random(5000) < changed.mean()
    anything = write_changes(np.where(anywhere, rng.integers(10, size=5000), base), base, 10)
    assert len(after) < 0.65 * len(anything)


def test_changes_beyond_all_claims_are_refused() -> None:
    base = np.zeros(100, np.int64)
    with pytest.raises(InputError, match="more changes than there can be"):
        read_changes(bytes(10**6), base, 10)
    with pytest.raises(InputError, match="more changes than there can be"):
        read_changes(b"", np.zeros(MOST_ROWS + 1, np.int64), 10)
    with pytest.raises(InputError, match="more coded numbers than expected"):
        read_changes(b"\xff" * 140, base, 10)


def test_a_context_with_many_numbers_takes_no_new_ones() -> None:
    numbers, values = Numbers(), [*range(3000), *range(3000)]
    for value in values:
        numbers.write(value, 3000, "all")
    found = NumbersRead(numbers.bytes())
    assert [found.read(3000, "all") for _ in values] == values
    assert len(numbers._frequencies.of("all")[0]) == adaptive._MOST_SEEN
