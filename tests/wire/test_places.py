"""Places in few bits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_kd.errors import InputError
from flower_kd.wire.places import pack_places, unpack_places


@given(
    places=st.integers(1, 3_000_000).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=60))
    ),
    after=st.binary(max_size=9),
)
def test_places_survive_with_anything_after_them(places: tuple[int, set[int]], after: bytes) -> None:
    below, chosen = places
    packed = pack_places(np.array(sorted(chosen), np.int64))
    found, size = unpack_places(packed + after, len(chosen), below)
    assert found.tolist() == sorted(chosen)
    assert size == len(packed)


@pytest.mark.parametrize("share", [0.003, 0.04, 0.3])
def test_places_take_little_more_than_their_entropy(share: float) -> None:
    places = np.flatnonzero(np.random.default_rng(0).random(5000) < share)
    p = len(places) / 5000
    entropy = -5000 * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert 8 * len(pack_places(places)) < 1.04 * entropy + 8 * 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off"),
        (b"\x05", "cut off"),
        (b"\x20" + b"\xff" * 99, "cut off"),
        (b"\x00\x00\x00", "0 places of 3 values"),
        (b"\x00" + b"\x00\x00\x00\x07", "0 places of 3 values"),
        (b"\x03\xff\xff\xf0", "place 23 where there are 10"),
    ],
)
def test_other_bytes_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        unpack_places(data, 3, 10)
