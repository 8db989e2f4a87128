import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flower_kd import wire
from flower_kd.errors import InputError

finite = st.floats(-6e4, 6e4, width=32)
row_arrays = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 12)), elements=finite)


@given(row_arrays)
def test_float32_is_exact(rows: np.ndarray) -> None:
    assert np.array_equal(wire.decode(wire.encode(rows)).numpy(), rows)


narrow_rows = st.tuples(row_arrays, st.floats(2.0**-40, 1.0)).map(lambda drawn: drawn[0][:, :1] + drawn[1] * drawn[0])


@given(row_arrays | narrow_rows.filter(lambda rows: np.abs(rows).max() <= 65504))
@example(np.array([[0.3, 0.3000003, 0.3000006, 0.300001]], np.float32))
@example(np.array([[5.0, 5.0, 5.000001]], np.float32))
@example(np.array([[0.0, 1e-7, 3e-7, 1e-6]], np.float32))
@example(np.array([[-65504.0, 0.1, 65504.0]], np.float32))
@example(np.array([[1e-45, 0.0]], np.float32))
def test_uint8_errs_by_half_a_step_of_the_rows_range(rows: np.ndarray) -> None:
    rows = rows.astype(np.float32)
    decoded = wire.decode(wire.encode(rows, "uint8")).numpy().astype(np.float64)
    step = np.ptp(rows.astype(np.float64), axis=1, keepdims=True) / 255
    # The step is rounded up by 1/128 at most (or is one of the least that float32 has), and sums are those of float32.
    rounding = 2 * np.spacing(np.abs(rows).max(axis=1, keepdims=True)) + 1e-38
    assert (np.abs(decoded - rows) <= step / 2 * (1 + 1 / 128) + rounding).all()


@given(row_arrays)
def test_float16_errs_relatively(rows: np.ndarray) -> None:
    decoded = wire.decode(wire.encode(rows, "float16")).numpy()
    assert np.allclose(decoded, rows, rtol=1e-3, atol=1e-7)


def test_uint8_keeps_soft_labels_close() -> None:
    soft = torch.softmax(torch.randn(1000, 10, generator=torch.Generator().manual_seed(0)) * 3, dim=-1)
    assert (wire.decode(wire.encode(soft, "uint8")) - soft).abs().max() < 3e-3


def test_shapes_survive_with_teachers_apart() -> None:
    rows = torch.randn(3, 5, 4)
    for name in wire.names():
        assert wire.decode(wire.encode(rows, name), (3, 5, 4)).shape == (3, 5, 4)


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
        (ArrayRecord({"rows": Array(np.zeros((3, 4), np.float64))}), "dtype float64"),
        (ArrayRecord({"rows": Array(np.zeros((2, 4), np.float32))}), "2 x 4 where 3 x 4"),
        (ArrayRecord({"rows": Array(np.zeros(12, np.float32))}), "12 where 3 x 4"),
        (ArrayRecord({"rows": Array(np.full((3, 4), np.nan, np.float32))}), "NaN or Inf"),
        (ArrayRecord({"rows": Array(np.zeros((3, 4), np.uint8))}), "'offset'"),
        (ArrayRecord({"rows": Array("float32", (3, 4), "numpy.ndarray", b"garbage")}), "cannot be read"),
        (ArrayRecord({"rows": Array("float32", (10**7, 10**7), "numpy.ndarray", b"claims")}), "6 bytes for a shape"),
        (ArrayRecord({"rows": Array(np.array([["a", "b"]]))}), "dtype '<U1'"),
        (ArrayRecord({"rows": Array(np.full((3, 4), 3e38, np.float32))}), "a value of 3e.38 .allowed: -65504"),
        (
            ArrayRecord({"rows": Array(np.asfortranarray(np.zeros((3, 4), np.float32)))}),
            "its header is not that of float32",
        ),
        (ArrayRecord({"rows": Array(np.zeros((3, 4), np.complex64))}), "dtype complex64"),
        (ArrayRecord({"rows": Array(np.zeros((3, 4), np.float32)), "x": Array(np.zeros(1))}), "'x' beside float32"),
        (ArrayRecord({"rows": Array("float32", (3, 4), "pickle", b"cos\nsystem\n")}), "cannot be read"),
    ],
)
def test_what_a_node_can_get_wrong(record: ArrayRecord, words: str) -> None:
    with pytest.raises(InputError, match=words):
        wire.decode(record, (3, 4))


def test_pickled_objects_are_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        wire.decode(ArrayRecord({"rows": Array("object", (1,), "numpy.ndarray", buffer.getvalue())}))


ZEROS = {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"b": None}, "another model: 'b' is missing"),
        ({"c": np.zeros(3)}, "another model: 'c' is unknown"),
        (
            {"b": np.zeros((2, 2), np.float32)},
            r"'b' is 'float32' of shape \(2, 2\), not 'float32' of shape \(2,\)",
        ),
        ({"b": np.full(2, np.inf, np.float32)}, "'b' with NaN or Inf"),
        ({"b": np.full(2, 1e300)}, "'b' is 'float64'"),
        ({"b": np.zeros(2, np.complex64)}, "'b' is 'complex64'"),
        ({"b": np.zeros(2, np.int64)}, "'b' is 'int64'"),
    ],
)
def test_weights_are_checked(weights: dict, words: str) -> None:
    record = ArrayRecord({name: Array(value) for name, value in (ZEROS | weights).items() if value is not None})
    with pytest.raises(InputError, match=words):
        wire.decode_weights(record, wire.layout(ArrayRecord({name: Array(value) for name, value in ZEROS.items()})))


DTYPES = [getattr(torch, name) for name in sorted(wire._NUMBERS)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_weights_of_any_dtype_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    state = {"a": torch.ones(shape).to(dtype), "transposed": torch.arange(6).reshape(2, 3).to(dtype).T}
    record = wire.encode_weights(state)
    assert wire.layout(record) == wire.layout_of(state)
    back = wire.decode_weights(record, wire.layout_of(state))
    assert all(torch.equal(torch.from_numpy(back[name]), value) for name, value in state.items())


def test_a_dtype_that_numpy_does_not_have_is_named() -> None:
    with pytest.raises(InputError, match="'a' are bfloat16, which numpy does not support"):
        wire.encode_weights({"a": torch.ones(2, dtype=torch.bfloat16)})


VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(max_size=300), st.binary(max_size=300)
)
LISTS = st.one_of(st.lists(st.integers(-300, 300)), st.lists(st.floats()), st.lists(st.text(max_size=5)))


@given(config=st.dictionaries(st.text(max_size=9), st.one_of(VALUES, LISTS)), rows=st.integers(0, 40))
@example(config={"n": -64}, rows=1)
@example(config={"n": -65}, rows=1)
def test_counted_bytes_are_those_of_the_serializer(config: dict, rows: int) -> None:
    """Also for later messages with the same layout, which are not serialized."""
    content = RecordDict({"config": ConfigRecord(config), "rows": wire.encode(np.zeros((rows, 3), np.float32))})
    content["metrics"] = MetricRecord({"loss": 0.5, "samples": rows})
    expected = recorddict_to_proto(content).ByteSize() + wire.METADATA_BYTES
    assert wire.content_bytes(content) == wire.content_bytes(content) == expected


@pytest.mark.parametrize("values", [np.zeros((2, 3), np.float32), np.array(7), np.ones((0, 4), np.uint8)])
def test_arrays_are_those_of_flower(values: np.ndarray) -> None:
    assert wire.as_array(values) == Array(values)
    assert np.array_equal(wire.as_array(values.T).numpy(), values.T)  # not in C order
