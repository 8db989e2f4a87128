import math
import random
import zlib

import hostility
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flower_kd import wire
from flower_kd.errors import InputError

finite = st.floats(-6e4, 6e4, width=32)
row_arrays = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 12)), elements=finite)


@given(row_arrays)
def test_float32_is_exact(rows: np.ndarray) -> None:
    assert np.array_equal(wire.decode(wire.encode(rows), rows.shape).numpy(), rows)


narrow_rows = st.tuples(row_arrays, st.floats(2.0**-40, 1.0)).map(lambda drawn: drawn[0][:, :1] + drawn[1] * drawn[0])


@given(row_arrays | narrow_rows.filter(lambda rows: np.abs(rows).max() <= 65504))
@example(np.array([[0.3, 0.3000003, 0.3000006, 0.300001]], np.float32))
@example(np.array([[5.0, 5.0, 5.000001]], np.float32))
@example(np.array([[0.0, 1e-7, 3e-7, 1e-6]], np.float32))
@example(np.array([[-65504.0, 0.1, 65504.0]], np.float32))
@example(np.array([[1e-45, 0.0]], np.float32))
def test_uint8_errs_by_half_a_step_of_the_rows_range(rows: np.ndarray) -> None:
    rows = rows.astype(np.float32)
    decoded = wire.decode(wire.encode(rows, "uint8"), rows.shape, "uint8").numpy().astype(np.float64)
    step = np.ptp(rows.astype(np.float64), axis=1, keepdims=True) / 255
    # The step is rounded up by 1/128 at most (or is one of the least that float32 has), and sums are those of float32.
    rounding = 2 * np.spacing(np.abs(rows).max(axis=1, keepdims=True)) + 1e-38
    assert (np.abs(decoded - rows) <= step / 2 * (1 + 1 / 128) + rounding).all()


@given(row_arrays)
def test_float16_errs_relatively(rows: np.ndarray) -> None:
    decoded = wire.decode(wire.encode(rows, "float16"), rows.shape, "float16").numpy()
    assert np.allclose(decoded, rows, rtol=1e-3, atol=1e-7)


def test_uint8_keeps_soft_labels_close() -> None:
    soft = torch.softmax(torch.randn(1000, 10, generator=torch.Generator().manual_seed(0)) * 3, dim=-1)
    assert (wire.decode(wire.encode(soft, "uint8"), (1000, 10), "uint8") - soft).abs().max() < 3e-3


def test_shapes_survive_with_teachers_apart() -> None:
    rows = torch.randn(3, 5, 4)
    for name in wire.names():
        assert wire.decode(wire.encode(rows, name), (3, 5, 4), name).shape == (3, 5, 4)


def test_sizes_are_in_order() -> None:
    rows = np.random.default_rng(0).normal(size=(5000, 10)).astype(np.float32)
    size = {name: sum(len(a.data) for a in wire.encode(rows, name).values()) for name in wire.names()}
    assert size["float32"] == pytest.approx(200_000, rel=0.01)
    assert size["float16"] == pytest.approx(100_000, rel=0.01)
    assert size["uint8"] == pytest.approx(80_000, rel=0.01)  # 10 codes and 6 bytes of offset and scale a row


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_infinite_is_sent(value: float) -> None:
    with pytest.raises(InputError, match="NaN or Inf"):
        wire.encode(np.array([[0.0, value]], dtype=np.float32))


@pytest.mark.parametrize("name", wire.names())
def test_what_is_too_large_is_not_sent(name: str) -> None:
    with pytest.raises(InputError, match=r"contain a value of 1e\+06 \(allowed: -65504 to 65504\): the model diverged"):
        wire.encode(np.array([[0.0, 1e6]], dtype=np.float32), name)


def test_unknown_format_names_the_allowed_ones() -> None:
    with pytest.raises(InputError, match="float32, float16, uint8"):
        wire.encode(np.zeros((1, 2)), "int4")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (ArrayRecord(), "no array 'rows'"),
        (ArrayRecord({"rows": Array(np.zeros((3, 4), np.float64))}), "dtype 'float64' where 'float32' was expected"),
        (ArrayRecord({"rows": Array(np.zeros((2, 4), np.float32))}), "2 x 4 where 3 x 4"),
        (ArrayRecord({"rows": Array(np.zeros(12, np.float32))}), "12 where 3 x 4"),
        (ArrayRecord({"rows": Array(np.full((3, 4), np.nan, np.float32))}), "NaN or Inf"),
        (ArrayRecord({"rows": Array(np.zeros((3, 4), np.uint8))}), "not in wire format 'float32': .* dtype 'uint8'"),
        (ArrayRecord({"rows": Array("float32", (3, 4), "numpy.ndarray", b"garbage")}), "cannot be read"),
        (ArrayRecord({"rows": Array("float32", (10**7, 10**7), "numpy.ndarray", b"claims")}), "6 bytes for a shape"),
        (ArrayRecord({"rows": Array(np.array([["a", "b"]]))}), "dtype '<U1'"),
        (ArrayRecord({"rows": Array(np.full((3, 4), 3e38, np.float32))}), "a value of 3e.38 .allowed: -65504"),
        (
            ArrayRecord({"rows": Array(np.asfortranarray(np.zeros((3, 4), np.float32)))}),
            "its header is not that of float32",
        ),
        (ArrayRecord({"rows": Array(np.zeros((3, 4), np.complex64))}), "dtype 'complex64'"),
        (
            ArrayRecord({"rows": Array(np.zeros((3, 4), np.float32)), "x": Array(np.zeros(1))}),
            "an array 'x' that it does not have",
        ),
        (ArrayRecord({"rows": Array("float32", (3, 4), "pickle", b"cos\nsystem\n")}), "cannot be read"),
    ],
)
def test_what_a_node_can_get_wrong(record: ArrayRecord, words: str) -> None:
    with pytest.raises(InputError, match=words):
        wire.decode(record, (3, 4))


@pytest.mark.parametrize("sent", wire.names())
@pytest.mark.parametrize("asked", wire.names())
def test_rows_in_another_format_are_refused(sent: str, asked: str) -> None:
    record = wire.encode(np.ones((3, 4), np.float32), sent)
    if sent == asked:
        assert wire.decode(record, (3, 4), asked).shape == (3, 4)
    else:
        with pytest.raises(InputError, match=f"^rows that are not in wire format '{asked}': "):
            wire.decode(record, (3, 4), asked)


@pytest.mark.parametrize("name", ["offset", "scale"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: None, "no array"),
        (lambda values: values.astype(np.float64), "dtype 'float64'"),
        (lambda values: values[:1], "shape 1 x 1 where 3 x 1 was expected"),
        (lambda values: np.repeat(values, 4, axis=1), "shape 3 x 4 where 3 x 1 was expected"),
    ],
)
def test_uint8_rows_need_one_offset_and_scale_each(name: str, change, words: str) -> None:
    arrays = {key: array.numpy() for key, array in wire.encode(np.eye(3, 4), "uint8").items()}
    arrays[name] = change(arrays[name])
    record = ArrayRecord({key: Array(values) for key, values in arrays.items() if values is not None})
    with pytest.raises(InputError, match=words):
        wire.decode(record, (3, 4), "uint8")


def test_uint8_rows_may_not_be_decoded_to_infinity() -> None:
    arrays = {key: array.numpy() for key, array in wire.encode(np.eye(3, 4), "uint8").items()}
    arrays["scale"][:] = 0x7F7F
    with pytest.raises(InputError, match="rows with NaN or Inf"):
        wire.decode(ArrayRecord({key: Array(values) for key, values in arrays.items()}), (3, 4), "uint8")


def test_pickled_objects_are_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        wire.decode(ArrayRecord({"rows": Array("object", (1,), "numpy.ndarray", buffer.getvalue())}), (1,))


# -- codecs of others --------------------------------------------------------------------------------------------------


class Percent:
    """Soft labels in whole percent: its array has the name and the dtype of another codec's."""

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {"rows": np.rint(100 * values.clip(0, 1)).astype(np.uint8)}

    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return arrays["rows"].astype(np.float32) / 100


class Halves(Percent):
    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {"rows": np.rint(2 * values.clip(0, 100)).astype(np.uint8)}

    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return arrays["rows"].astype(np.float32) / 2


class Largest:
    """The `k` largest values of each row, the others as the least of these."""

    def __init__(self, *, k: int = 2) -> None:
        self.k = k

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        places = np.argpartition(values, -self.k, axis=-1)[..., -self.k :]
        return {"places": places.astype(np.uint16), "values": np.take_along_axis(values, places, -1)}

    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        kept = arrays["values"]
        rows = np.broadcast_to(kept.min(axis=-1, keepdims=True), shape).copy()
        np.put_along_axis(rows, arrays["places"].astype(np.int64), kept, -1)
        return rows


class Deflated:
    """Compressed: how long its array is depends on the values."""

    variable_size = True

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {"bytes": np.frombuffer(zlib.compress(values.tobytes()), np.uint8)}

    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        size = 4 * math.prod(shape)
        return np.frombuffer(zlib.decompressobj().decompress(arrays["bytes"].tobytes(), size), "<f4").reshape(shape)


SOFT = np.array([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0]], np.float32)


@pytest.mark.parametrize("codec", [Percent(), Halves(), Largest(), Deflated()])
def test_a_codec_of_others_goes_both_ways(codec) -> None:
    wire_format = wire.WireFormat("mine", codec)
    decoded = wire_format.decode(wire_format.encode(SOFT), SOFT.shape)
    np.testing.assert_allclose(decoded, SOFT, atol=0.25)
    decoded.zero_()  # in memory of its own


def test_codecs_with_arrays_of_the_same_name_and_dtype_do_not_collide() -> None:
    ones = np.ones((2, 3), np.float32)
    for codec in (Percent(), Halves()):
        wire_format = wire.WireFormat("mine", codec)
        assert (wire_format.decode(wire_format.encode(ones), (2, 3)) == 1).all()
    with pytest.raises(InputError, match="not in wire format 'uint8': no array 'offset'"):
        wire.decode(wire.WireFormat("mine", Percent()).encode(ones), (2, 3), "uint8")


@pytest.mark.parametrize("codec", [Percent(), Largest(), Deflated()])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_hostile_record_is_refused_in_a_sentence_or_decoded(codec, seed: int) -> None:
    wire_format = wire.WireFormat("mine", codec)
    mutated = hostility.arrays(random.Random(seed), wire_format.encode(SOFT))
    refused = None
    try:
        decoded = wire_format.decode(mutated, SOFT.shape)
        assert decoded.dtype == torch.float32
        assert decoded.shape == SOFT.shape
        assert torch.isfinite(decoded).all()
    except InputError as error:
        refused = str(error)
    assert refused is None or (refused.isprintable() and 10 < len(refused) < 1000)


def test_places_outside_the_row_exclude_their_sender() -> None:
    wire_format = wire.WireFormat("largest", Largest())
    record = wire_format.encode(SOFT)
    record["places"] = Array(np.full((2, 2), 9, np.uint16))
    with pytest.raises(InputError, match=r"'largest' cannot decode the rows: IndexError: .* 9 is out of bounds"):
        wire_format.decode(record, SOFT.shape)


def codec_with(**methods) -> wire.WireFormat:
    return wire.WireFormat("odd", type("Odd", (Percent,), methods)())


def raises(error: BaseException):
    def method(self, *args):
        raise error

    return method


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (np.zeros((2, 5), np.float32), "decoded the rows to 2 x 5 where 2 x 4 was expected"),
        (np.zeros(8, np.float32), "decoded the rows to 8 where 2 x 4"),
        (np.full((2, 4), np.nan, np.float32), "rows with NaN or Inf"),
        (np.full((2, 4), 1e300), "rows with NaN or Inf"),
        (np.full((2, 4), -7e4), r"a value of 70000 \(allowed"),
        (np.zeros((2, 4), np.int64), "must return an array of floats"),
        (np.zeros((2, 4), object), "must return an array of floats"),
        ([[0.0] * 4] * 2, "must return an array of floats"),
        (None, "must return an array of floats"),
    ],
    ids=str,
)
def test_what_a_codec_can_decode_wrong(result, words: str) -> None:
    wire_format = codec_with(decode=lambda self, arrays, shape: result)
    with pytest.raises(InputError, match=words):
        wire_format.decode(wire_format.encode(SOFT), SOFT.shape)


def test_what_a_codec_decodes_is_a_plain_array_of_the_expected_size() -> None:
    class Odd:
        def __init__(self, result):
            self.encode, self.decode = lambda rows: {"rows": rows}, lambda arrays, shape: result

    rows = np.ones((2, 3), np.float32)
    record = wire.encode(rows)
    masked = wire.WireFormat("odd", Odd(np.ma.masked_array(rows, mask=True))).decode(record, (2, 3))
    assert torch.equal(masked, torch.ones(2, 3))
    with pytest.raises(InputError, match="decoded the rows to 1000000 x 10000000 where 2 x 3 was expected"):
        wire.WireFormat("odd", Odd(np.broadcast_to(rows[0, 0], (10**6, 10**7)))).decode(record, (2, 3))


@pytest.mark.parametrize("error", [KeyError("a\x1b"), SystemExit(3), RecursionError("deep"), MemoryError()], ids=repr)
def test_a_codec_that_raises_says_what(error: BaseException) -> None:
    with pytest.raises(InputError, match=f"^wire format 'odd' cannot encode the rows: {type(error).__name__}"):
        codec_with(encode=raises(error)).encode(SOFT)
    wire_format = codec_with(decode=raises(error))
    with pytest.raises(
        InputError, match=f"^wire format 'odd' cannot decode the rows: {type(error).__name__}"
    ) as caught:
        wire_format.decode(wire_format.encode(SOFT), SOFT.shape)
    assert str(caught.value).isprintable()


def write_into(self, values: np.ndarray) -> dict[str, np.ndarray]:
    values[:] = 0
    return {"rows": values}


@pytest.mark.parametrize(
    ("encode", "words"),
    [
        (lambda self, values: values, "cannot encode the rows: AttributeError"),
        (lambda self, values: {"rows": values.tolist()}, "cannot encode the rows: AttributeError"),
        (lambda self, values: {"rows": values.astype(object)}, "array 'rows' of dtype object, not of numbers"),
        (lambda self, values: {"rows": values[values > 0]}, "shape 4 where 0 was expected"),
        (lambda self, values: {"rows" if values.any() else "none": values}, "no array 'none'"),
        (write_into, "cannot encode the rows: ValueError: assignment destination is read-only"),
    ],
)
def test_what_a_codec_can_encode_wrong(encode, words: str) -> None:
    with pytest.raises(InputError, match=words):
        codec_with(encode=encode).encode(SOFT)
    assert SOFT.sum() == 2


@pytest.mark.parametrize("name", ["float32", "float16", "uint8"])
def test_without_a_shape_it_is_that_of_the_rows(name: str) -> None:
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    record = wire.get(name).encode(values)
    torch.testing.assert_close(wire.get(name).decode(record), wire.get(name).decode(record, (4, 5)))
    with pytest.raises(InputError, match="needs the shape"):
        wire.get(name).decode(ArrayRecord())
