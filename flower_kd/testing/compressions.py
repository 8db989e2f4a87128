"""Properties of every compression of weights."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.wire import Arrays, Compression, Compressor, compression

_SHAPES = {"weight": (6, 5), "bias": (3,), "scale": ()}
_MESSAGES = 200  # enough to send 30 values one by one, several times


def check_compression(part: str | Compression) -> None:
    """Check that a compression shortens differences, and survives what others send.

    Parameters
    ----------
    part : str or object
        As in a run config, or an object with `compress` and `decompress`.

    Raises
    ------
    AssertionError
        If shapes change, the same values give other bytes, what is returned is further from a difference than zeros
        are, what is left out is not sent by many messages, or arrays of random bits end in another error than
        InputError.
    """
    compressor = compression.get(part) if isinstance(part, str) else Compressor(type(part).__name__, part)
    rng = np.random.default_rng(0)
    normal = {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in _SHAPES.items()}
    samples = {
        "random values": normal,
        "zeros": {name: np.zeros_like(change) for name, change in normal.items()},
        "equal values": {name: np.full_like(change, 7.25) for name, change in normal.items()},
        "large values": {name: 1e30 * change for name, change in normal.items()},
        "tiny values": {name: 1e-30 * change for name, change in normal.items()},
        "a single value": {name: change * (name == "scale") for name, change in normal.items()},
    }
    for what, update in samples.items():
        update = {name: np.asarray(change, np.float32) for name, change in update.items()}
        before = {name: change.copy() for name, change in update.items()}
        record, sent = _compressed(compressor, what, update)
        again, _ = _compressed(compressor, what, update)
        assert all(np.array_equal(before[name], update[name]) for name in update), f"{what}: compressing changes them"
        assert _bytes(record) == _bytes(again), f"{what}: other bytes for the same values"
        try:
            received = compressor.decompress(record, samples["zeros"])
        except InputError as error:
            raise AssertionError(f"{what}: {error}") from error
        assert all(np.array_equal(received[name], sent[name]) for name in sent), f"{what}: decompressing twice differs"
        off, size = _norm(_minus(update, sent)), _norm(update)
        assert off <= size, f"{what}: the error, {off:.3g}, is above their norm, {size:.3g}: scale them down"
    left = normal
    for _ in range(_MESSAGES):
        _, sent = _compressed(compressor, "what is left out", left)
        left = _minus(left, sent)
    share = _norm(left) / _norm(normal)
    assert share < 0.5, f"after {_MESSAGES} messages, {share:.0%} of a difference are not sent"
    _check_random_bits(compressor, samples["zeros"], _compressed(compressor, "random values", normal)[0], rng)


def _compressed(compressor: Compressor, what: str, update: Arrays) -> tuple[ArrayRecord, Arrays]:
    try:
        return compressor.compress(update, {})
    except InputError as error:
        raise AssertionError(f"{what}: {error}") from error


def _minus(one: Arrays, other: Arrays) -> Arrays:
    return {name: np.asarray(one[name] - other[name]) for name in one}


def _norm(values: Arrays) -> float:
    return float(np.sqrt(sum(float((change.astype(np.float64) ** 2).sum()) for change in values.values())))


def _bytes(record: ArrayRecord) -> list[tuple[str, bytes]]:
    return [(name, array.data) for name, array in record.items()]


def _check_random_bits(compressor: Compressor, base: Arrays, record: ArrayRecord, rng: np.random.Generator) -> None:
    for _ in range(50):
        arrays = {}
        for name, array in record.items():
            values = array.numpy()
            arrays[name] = wire.as_array(np.frombuffer(rng.bytes(values.nbytes), values.dtype).reshape(values.shape))
        try:
            compressor.decompress(ArrayRecord(arrays), base)
        except InputError:
            continue
        except Exception as error:
            raise AssertionError(f"random bits end in {type(error).__name__}, not InputError: {error}") from error
