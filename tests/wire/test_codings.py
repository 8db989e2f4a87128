import math
import random
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.wire import codings

NAMES = ["labels", "simplex", "simplex(bits=4)", "uint8", "float16", "float32"]


def rows_of(seed: int, shape: tuple[int, ...], scale: float = 3.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def size(record: ArrayRecord) -> int:
    return sum(len(array.data) for array in record.values())


@given(
    name=st.sampled_from(NAMES),
    shape=st.tuples(st.integers(0, 40), st.integers(2, 12)) | st.tuples(*[st.integers(1, 4)] * 2, st.integers(2, 5)),
    seed=st.integers(0, 99),
    changed=st.floats(0, 1),
)
@settings(deadline=None)
def test_what_is_coded_is_decoded_as_if_it_were_plain(
    name: str, shape: tuple[int, ...], seed: int, changed: float
) -> None:
    before, now = rows_of(seed, shape), rows_of(seed + 1, shape)
    now = np.where(np.random.default_rng(seed).random(shape[:-1])[..., None] < changed, now, before)
    plain = wire.get(name)
    expected = plain.decode(plain.encode(now), shape)
    coded = wire.get(name, "entropy")
    assert torch.equal(coded.decode(coded.encode(now), shape), expected)
    delta = wire.get(name, "delta")
    base = delta.words(before)
    record = delta.pack(delta.words(now), shape, base)
    assert torch.equal(delta.values(delta.unpack(record, shape, base), shape), expected)
    assert size(record) <= size(delta.encode(now))


def test_a_delta_is_a_tenth_of_the_labels() -> None:
    labels = wire.get("labels", "delta")
    before, other = rows_of(0, (5000, 10)), rows_of(1, (5000, 10))
    now = np.where(np.random.default_rng(2).random((5000, 1)) < 0.04, other, before)
    base = labels.words(before)
    assert size(labels.pack(labels.words(now), now.shape, base)) < 250 < 2000 < size(labels.encode(now))
    assert size(labels.pack(base, now.shape, base)) < 10


def test_skewed_symbols_take_less_than_plain_ones() -> None:
    soft = rows_of(0, (5000, 10), scale=6.0)
    assert size(wire.get("simplex", "entropy").encode(soft)) < 0.75 * size(wire.get("simplex").encode(soft))


@pytest.mark.parametrize("name", NAMES)
def test_another_base_is_found(name: str) -> None:
    delta = wire.get(name, "delta")
    before, now = rows_of(0, (50, 4)), rows_of(0, (50, 4))
    now[3] = -now[3]
    base = delta.words(before)
    record = delta.pack(delta.words(now), now.shape, base)
    other = base.copy()
    other[20] = delta.words(-before)[20]
    with pytest.raises(InputError, match=r"^rows that are not in wire format .*, or a delta for another base"):
        delta.unpack(record, now.shape, other)
    with pytest.raises(InputError, match="they are a delta, without a base"):
        delta.decode(record, now.shape)


def refused_or_decoded(wire_format: wire.WireFormat, data: bytes, shape: tuple[int, ...], base: np.ndarray) -> bool:
    """Return whether bytes were decoded; any other end than InputError, and memory out of proportion, is an error."""
    record = ArrayRecord({"rows": wire.as_coded(data)})
    tracemalloc.start()
    try:
        words = wire_format.unpack(record, shape, base)
        assert wire_format.values(words, shape).isfinite().all()
        return True
    except InputError as error:
        refused = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200_000 + 200 * math.prod(shape)
    assert refused.isprintable()
    assert len(refused) < 400
    return False


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("coding", ["entropy", "delta"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_corrupt_and_truncated_bytes_are_refused(name: str, coding: str, seed: int) -> None:
    rng = random.Random(seed)
    shape = (rng.choice([1, 7, 60]), 4)
    wire_format = wire.get(name, coding)
    before, now = rows_of(0, shape), rows_of(rng.randrange(2), shape)
    now = np.where(np.arange(shape[0])[:, None] % 3 == 0, now, before)
    base = wire_format.words(before)
    data = bytearray(wire_format.pack(wire_format.words(now), shape, base)["rows"].data)
    whole = bytes(data)
    for _ in range(rng.randint(1, 3)):
        match rng.randrange(4):
            case 0:
                del data[rng.randrange(len(data) + 1) :]
            case 1 if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
            case 2:
                data += rng.randbytes(rng.randint(1, 9))
            case _:
                data[5:] = bytes([rng.randrange(3)]) + b"\xff" * rng.randint(0, 30)
    decoded = refused_or_decoded(wire_format, bytes(data), shape, base)
    assert (
        not decoded
        or bytes(data) == whole
        or wire_format.unpack(ArrayRecord({"rows": wire.as_coded(bytes(data))}), shape, base).tobytes()
        == wire_format.words(now).tobytes()
    )


def bombs() -> list[bytes]:
    """Return bytes that claim far more than there is."""
    huge = b"\xff" * 8 + b"\x7f"
    zeros = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = zeros.compress(bytes(10**7)) + zeros.flush()
    many = codings.number(len(packed)) + packed
    return [b"\x00" + b"\x00" * 4 + b"\x01" + many, b"\x00\x00\x00\x00\x00\x02" + huge, b"\x01\x00\x00\x00\x00" + huge]


@pytest.mark.parametrize("name", NAMES)
def test_mere_claims_take_no_memory(name: str) -> None:
    wire_format = wire.get(name, "delta")
    base = wire_format.words(rows_of(0, (60, 4)))
    for data in bombs():
        assert not refused_or_decoded(wire_format, data, (60, 4), base)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (Array(np.zeros(9, np.uint8)), "written as 'numpy.ndarray', not as 'coded'"),
        (Array("", (4,), "coded", b"abc"), r"coded bytes that claim to be '' of shape \(4,\)"),
        (Array("uint8", (), "coded", b"abc"), "claim to be 'uint8'"),
        (Array("uint8", (3,), "pickle", b"abc"), "written as 'pickle'"),
        (Array("", (), "coded", b""), "truncated"),
        (Array("", (), "coded", b"\x07" * 9), "unknown form 7"),
    ],
)
def test_other_arrays_are_refused(array: Array, words: str) -> None:
    with pytest.raises(InputError, match=words):
        wire.get("labels").decode(ArrayRecord({"rows": array}), (3, 4))


def test_an_array_beside_the_rows_is_refused() -> None:
    record = wire.get("labels").encode(np.eye(3, 4))
    record["more"] = wire.as_coded(b"")
    with pytest.raises(InputError, match=r"its arrays are \['rows', 'more'\], not just 'rows'"):
        wire.get("labels").decode(record, (3, 4))


# -- codecs of others --------------------------------------------------------------------------------------------------


class Sign:
    """One bit a row: whether the first class is likelier than the last."""

    def alphabet(self, classes: int) -> int:
        return 2

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {"rows": (values[..., 0] > values[..., -1]).astype(np.uint8)}

    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        values = np.zeros(shape, np.float32)
        values[..., 0] = 2.0 * arrays["rows"] - 1
        return values


def codec(**methods) -> type:
    return type("Odd", (Sign,), methods)()


def test_a_codec_of_others_may_send_symbols() -> None:
    wire_format = wire.WireFormat("sign", Sign())
    rows = rows_of(0, (800, 3))
    record = wire_format.encode(rows)
    assert size(record) == 106
    assert np.array_equal(wire_format.decode(record, rows.shape)[:, 0] > 0, rows[:, 0] > rows[:, -1])


@pytest.mark.parametrize(
    ("methods", "coding", "words"),
    [
        ({"variable_size": True}, "plain", "arrays without a fixed size .* have no alphabet"),
        ({"alphabet": None, "variable_size": True}, "entropy", "wire-coding = 'entropy' does not take: use 'plain'"),
        (
            {"encode": lambda self, values: {"rows": np.full(2, 7, np.uint8)}},
            "plain",
            "a symbol is 7, but must be below 2",
        ),
        ({"encode": lambda self, values: {"rows": np.zeros(2)}}, "plain", "must be one unsigned integer a row"),
        (
            {"alphabet": None, "encode": lambda self, values: {"rows": np.zeros(5)}},
            "delta",
            "not one entry for each row",
        ),
        ({}, "zip", "unknown wire-coding 'zip'"),
    ],
)
def test_what_cannot_be_coded_is_refused_at_once(methods: dict, coding: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        wire.WireFormat("odd", codec(**methods), coding).check(3)
