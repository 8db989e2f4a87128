"""Properties of every codec of a wire format."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import ArrayRecord

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.wire import CODED, Codec, WireFormat

_SHAPES = ((6, 4), (1, 2), (3, 5, 10))


def check_codec(part: str | Codec) -> None:
    """Check that a codec gives back what it was given, and survives what others send.

    Parameters
    ----------
    part : str or object
        As in a run config, or an object with `encode` and `decode`.

    Raises
    ------
    AssertionError
        If shapes change, values are not finite, the same rows give other bytes, a clear prediction is lost, one message
        changes another, arrays of random bits end in another error than InputError, or other rows arrive when the
        arrays are entropy coded.
    """
    codec = _format(part, "plain")
    coded = None if getattr(codec.codec, "variable_size", False) else _format(part, "entropy")
    rng = np.random.default_rng(0)
    for shape in _SHAPES:
        logits = rng.normal(size=shape).astype(np.float32)
        clear = logits.copy()
        winners = rng.integers(shape[-1], size=shape[:-1])
        np.put_along_axis(clear, winners[..., None], 12.0, axis=-1)
        samples = {
            "random logits": logits,
            "clear predictions": clear,
            "zeros": np.zeros(shape, np.float32),
            "equal values": np.full(shape, 7.25, np.float32),
            "the largest values": np.where(logits > 0, wire.LARGEST, -wire.LARGEST).astype(np.float32),
            "tiny values": (1e-30 * logits).astype(np.float32),
        }
        for name, values in samples.items():
            what = f"{name} of shape {list(shape)}"
            before = values.copy()
            record = _encoded(codec, what, values)
            assert np.array_equal(values, before), f"{what}: encoding changes them"
            _encoded(codec, what, -values)
            decoded = _decoded(codec, what, record, shape)
            assert torch.equal(decoded, _decoded(codec, what, record, shape)), f"{what}: decoding twice differs"
            assert _bytes(record) == _bytes(_encoded(codec, what, values)), f"{what}: other bytes for the same rows"
            if coded is not None:
                again = _decoded(coded, what, _encoded(coded, what, values), shape)
                assert torch.equal(again, decoded), f"{what}: with wire-coding = 'entropy' other rows arrive"
            if name == "clear predictions":
                assert (decoded.numpy().argmax(-1) == winners).all(), f"{what}: the predicted class is lost"
        _check_random_bits(codec, _encoded(codec, "random logits", logits), shape, rng)


def _format(part: str | Codec, coding: str) -> WireFormat:
    return wire.get(part, coding) if isinstance(part, str) else WireFormat(type(part).__name__, part, coding)


def _encoded(codec: WireFormat, what: str, values: np.ndarray) -> ArrayRecord:
    try:
        return codec.encode(values)
    except InputError as error:
        raise AssertionError(f"{what}: {error}") from error


def _decoded(codec: WireFormat, what: str, record: ArrayRecord, shape: tuple[int, ...]) -> torch.Tensor:
    try:
        return codec.decode(record, shape)
    except InputError as error:
        raise AssertionError(f"{what}: {error}") from error


def _bytes(record: ArrayRecord) -> list[tuple[str, bytes]]:
    return [(name, array.data) for name, array in record.items()]


def _check_random_bits(
    codec: WireFormat, record: ArrayRecord, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    for _ in range(50):
        arrays = {}
        for name, array in record.items():
            if array.stype == CODED:
                arrays[name] = wire.as_coded(rng.bytes(len(array.data)))
                continue
            values = array.numpy()
            bits = rng.bytes(values.nbytes)
            arrays[name] = wire.as_array(np.frombuffer(bits, values.dtype).reshape(values.shape))
        try:
            codec.decode(ArrayRecord(arrays), shape)
        except InputError:
            continue
        except Exception as error:
            raise AssertionError(f"random bits end in {type(error).__name__}, not InputError: {error}") from error
