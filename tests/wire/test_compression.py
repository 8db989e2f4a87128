"""Compression of weights: small errors, small messages, and nothing but InputError for what others send."""

import math
import random

import hostility
import numpy as np
import pytest
from flwr.app import ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn_arrays

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.wire import compression, digest
from flower_kd.wire.compression import Compressor, moved

NAMES = ["none", "uint8", "top-k(share=0.1)", "top-k(share=0.01)", "top-k(share=1)"]
SHAPES = {"b": (7, 5), "a": (3,), "c": ()}
finite = st.floats(-1e6, 1e6, width=32).map(lambda value: value if abs(value) > 1e-30 else 0.0)  # a step of 0


@st.composite
def updates(draw) -> dict[str, np.ndarray]:
    shapes = [(draw(st.integers(1, 40)), draw(st.integers(1, 7))), (draw(st.integers(1, 20)),), ()]
    return {
        name: np.asarray(draw(drawn_arrays(np.float32, shape, elements=finite)))
        for name, shape in zip("bac", shapes, strict=True)
    }


def zeros(update: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.zeros_like(change) for name, change in update.items()}


def flat(update: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([update[name].reshape(-1) for name in sorted(update)]).astype(np.float64)


def sample(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", NAMES)
@given(update=updates())
@settings(max_examples=40, deadline=None)
def test_the_receiver_gets_what_the_sender_says(name: str, update: dict) -> None:
    """Whatever the order of names; and the base is moved by equal bits on both sides."""
    compressor = compression.get(name)
    record, sent = compressor.compress(update, {})
    base = {key: np.asarray(np.ones_like(update[key])) for key in sorted(update)}
    received = compressor.decompress(ArrayRecord(dict(reversed(record.items()))), base)
    assert digest(received) == digest(moved(base, sent))
    assert {key: array.shape for key, array in received.items()} == {key: a.shape for key, a in update.items()}


@given(update=updates(), share=st.sampled_from([0.001, 0.03, 0.2, 0.7, 1.0]))
@settings(max_examples=60, deadline=None)
def test_top_k_is_a_contraction(update: dict, share: float) -> None:
    """||x - C(x)||^2 <= (1 - k/d) ||x||^2 (Stich et al. 2018), and half a step of rounding for each value kept."""
    _, sent = compression.get(f"top-k(share={share})").compress(update, {})
    values, kept = flat(update), flat(sent)
    k = max(1, math.ceil(share * len(values)))
    rounding = k * (np.abs(values).max() / 254 * 1.001) ** 2
    assert ((values - kept) ** 2).sum() <= (1 - k / len(values)) * (values**2).sum() * 1.0001 + rounding
    assert np.count_nonzero(kept) <= k
    if np.count_nonzero(kept):
        assert np.abs(values)[kept != 0].min() >= np.sort(np.abs(values))[-k]


@given(update=updates())
@settings(max_examples=60, deadline=None)
def test_8_bits_are_off_by_half_a_step_and_never_by_more_than_the_value(update: dict) -> None:
    _, sent = compression.get("uint8").compress(update, {})
    for name, change in update.items():
        largest = np.abs(change).max()
        error = np.abs(sent[name] - change)
        assert (error <= largest / 254 * 1.001).all()
        assert (error <= np.abs(change) * 1.001).all()
        assert np.abs(sent[name]).max() == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("uint8", 60_000 + 600),
        ("top-k(share=0.1)", 6_000 * (8 + 4.9) / 8 + 400),
        ("top-k(share=0.01)", 600 * (8 + 8.2) / 8 + 400),
        ("top-k(share=0.001)", 60 * (8 + 11.6) / 8 + 400),
    ],
)
def test_messages_are_small(name: str, most: float) -> None:
    """Of random places, an entropy coder would need 4.7, 8.1 and 11.4 bits each."""
    rng = np.random.default_rng(0)
    update = {"w": rng.normal(size=(200, 250)).astype(np.float32), "v": rng.normal(size=10_000).astype(np.float32)}
    record, _ = compression.get(name).compress(update, {})
    assert wire.content_bytes(hostility.RecordDict({"update": record})) < most + wire.METADATA_BYTES


def test_buffers_travel_as_they_are() -> None:
    update, buffers = sample(), {"mean": np.array([0.1, 1e30], np.float32), "count": np.array(2**40)}
    base = zeros(update) | {"mean": np.zeros(2, np.float32), "count": np.array(1)}
    compressor = compression.get("top-k")
    record, sent = compressor.compress(update, buffers)
    received = compressor.decompress(record, base)
    assert received["count"] == 2**40
    assert np.array_equal(received["mean"], buffers["mean"])
    assert digest(received) == digest(moved(base, sent) | buffers)


def test_half_precision_weights_stay_so() -> None:
    base = {"w": np.ones(4, np.float16)}
    record, _ = compression.get("uint8").compress({"w": np.full(4, 0.5, np.float32)}, {})
    received = compression.get("uint8").decompress(record, base)
    assert received["w"].dtype == np.float16
    assert np.array_equal(received["w"], np.full(4, 1.5, np.float16))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_parameters_to_compress(name: str) -> None:
    record, sent = compression.get(name).compress({}, {"count": np.array(3)})
    assert sent == {}
    assert compression.get(name).decompress(record, {"count": np.array(1)})["count"] == 3


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_divergence(name: str) -> None:
    _, sent = compression.get(name).compress(zeros(sample()), {})
    assert not flat(sent).any()
    for odd in (np.nan, np.inf):
        with pytest.raises(InputError, match="the weights to send contain NaN or Inf: the model diverged"):
            compression.get(name).compress(sample() | {"c": np.array(odd, np.float32)}, {})


# -- what others send --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_mutated_messages_end_in_input_errors(name: str) -> None:
    rng, compressor, update = random.Random(0), compression.get(name), sample()
    base = zeros(update) | {"count": np.array(1)}
    record, _ = compressor.compress(update, {"count": np.array(3)})
    refused = 0
    for _ in range(400):
        try:
            weights = compressor.decompress(hostility.arrays(rng, record), base)
        except InputError as error:
            refused += "\n" not in str(error)
            continue
        assert wire.compression._shapes(weights) == wire.compression._shapes(base)
        assert all(np.isfinite(array).all() for array in weights.values())
    assert refused > 100


@pytest.mark.parametrize("name", NAMES[1:])
def test_random_bytes_end_in_input_errors(name: str) -> None:
    rng, compressor, base = np.random.default_rng(0), compression.get(name), zeros(sample())
    record, _ = compressor.compress(sample(), {})
    for _ in range(300):
        arrays = {}
        for key, array in record.items():
            values = array.numpy()
            size = values.shape if rng.random() < 0.5 else (int(rng.integers(0, 60)),)
            arrays[key] = wire.as_array(
                np.frombuffer(rng.bytes(math.prod(size) * values.itemsize), values.dtype).reshape(size)
            )
        try:
            weights = compressor.decompress(ArrayRecord(arrays), base)
        except InputError:
            continue
        assert all(np.isfinite(array).all() for array in weights.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("codes"), "compression 'uint8': no array 'codes' in the record"),
        (lambda arrays: arrays.update(more=np.zeros(3)), "an array 'more' that it does not have"),
        (lambda arrays: arrays.update(codes=np.zeros(39)), "'codes' has dtype 'float64' where 'uint8' was expected"),
        (
            lambda arrays: arrays.update(codes=arrays["codes"][1:]),
            r"cannot decompress .* \(38,\) codes and \(3,\) steps",
        ),
        (lambda arrays: arrays.update(steps=np.full(3, np.nan, np.float32)), "returns NaN or Inf for 'a'"),
        (lambda arrays: arrays.update(steps=np.full(3, 3e37, np.float32)), "with NaN or Inf|returns NaN or Inf"),
        (lambda arrays: arrays.update({"buffer.x": np.zeros(3)}), "weights of another model: 'x' is unknown"),
        (lambda arrays: arrays.update({"buffer.count": np.zeros(3)}), "'count' is 'float64' of shape .*, not 'int64'"),
        (lambda arrays: arrays.pop("buffer.count"), "lack 'count', which must travel as it is"),
        (lambda arrays: arrays.update(codes=np.zeros(5000, np.uint8)), "of .* bytes stand for weights of 164 bytes"),
    ],
)
def test_a_wrong_message_is_named(change, words: str) -> None:
    compressor = compression.get("uint8")
    base = {name: np.asarray(array * np.float32(1e38)) for name, array in sample().items()} | {"count": np.array(1)}
    record, _ = compressor.compress(sample(), {"count": np.array(3)})
    arrays = {name: array.numpy() for name, array in record.items()}
    change(arrays)
    with pytest.raises(InputError, match=words):
        compressor.decompress(ArrayRecord({name: wire.as_array(array) for name, array in arrays.items()}), base)


# -- compressions of others --------------------------------------------------------------------------------------------


class Faulty:
    """The values as they are, unless a test changes one way."""

    def compress(self, update):
        return update

    def decompress(self, arrays, shapes):
        return arrays


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        ({"compress": lambda update: 1 / 0}, "cannot compress the weights: ZeroDivisionError"),
        ({"compress": lambda update: update["a"].fill(0)}, "cannot compress the weights: ValueError: .*read-only"),
        ({"compress": lambda update: {"a": [1.0]}}, "must return arrays of numbers: 'a' is a list"),
        ({"compress": lambda update: {"a": np.array(["x"])}}, "must return arrays of numbers: 'a' is an array of <U1"),
        ({"compress": lambda update: {"buffer.a": update["a"]}}, "by names that do not begin with 'buffer.'"),
        ({"compress": lambda update: 3}, "cannot compress the weights: (Type|Attribute)Error"),
        ({"decompress": lambda arrays, shapes: {}}, "must return one array for each name in shapes"),
        (
            {"decompress": lambda arrays, shapes: arrays | {"a": arrays["b"]}},
            r"of shape \(7, 5\) for 'a', not an array",
        ),
        ({"decompress": lambda arrays, shapes: {n: np.zeros(s, int) for n, s in shapes.items()}}, "array of int64"),
        (
            {"decompress": lambda arrays, shapes: {n: np.full(s, np.inf) for n, s in shapes.items()}},
            "NaN or Inf for 'a'",
        ),
        ({"decompress": lambda arrays, shapes: exit(3)}, "cannot decompress the weights: SystemExit"),
    ],
)
def test_a_faulty_compression_is_named(ways: dict, words: str) -> None:
    part = type("Own", (Faulty,), {name: staticmethod(way) for name, way in ways.items()})()
    with pytest.raises(InputError, match=words) as refusal:
        Compressor("my:part", part).compress(sample(), {})
    assert "'my:part'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uint9", "unknown compression 'uint9', did you mean 'uint8'"),
        ("top-k(share=0)", "share = 0 must be above 0 and at most 1"),
        ("top-k(share=1.5)", "share = 1.5 must be above 0 and at most 1"),
        ("top-k(share=nan)", "share = nan must be finite"),
        ("top-k(k=3)", "unknown argument of compression 'top-k' 'k'"),
        ("builtins:dict", "is a dict, without the methods compress and decompress"),
    ],
)
def test_bad_names_and_settings(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        compression.get(text)


@pytest.mark.parametrize("step", [0.0, -1, 1.5, math.nan])
def test_a_consensus_step_out_of_range(step: float) -> None:
    part = Faulty()
    part.consensus_step = step
    with pytest.raises(InputError, match=r"consensus_step = .* of compression 'x' must be above 0, at most 1"):
        Compressor("x", part)
