"""How rows of logits or soft labels travel: encoding, quantization, validation, byte counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from functools import lru_cache
from io import BytesIO
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from torch import Tensor

from flower_kd.errors import InputError
from flower_kd.registry import Registry

Arrays = dict[str, np.ndarray]

FORMATS: Registry[Callable[[np.ndarray], Arrays]] = Registry("wire format")


def names() -> list[str]:
    """Return the names of the wire formats."""
    return FORMATS.names()


@FORMATS.register("float32")
def _float32(rows: np.ndarray) -> Arrays:
    return {"rows": rows}


@FORMATS.register("float16")
def _float16(rows: np.ndarray) -> Arrays:
    largest = np.finfo(np.float16).max
    if np.abs(rows).max(initial=0) > largest:
        raise InputError(f"a value of {np.abs(rows).max():g} does not fit wire = 'float16' (at most {largest:g})")
    return {"rows": rows.astype(np.float16)}


@FORMATS.register("uint8")
def _uint8(rows: np.ndarray) -> Arrays:
    """Quantize each row to 256 steps between its least and its largest value: 4 bytes a row more than the codes."""
    least, largest = rows.min(axis=-1, keepdims=True), rows.max(axis=-1, keepdims=True)
    if np.abs(rows).max(initial=0) > np.finfo(np.float16).max:
        raise InputError("a value beyond 65504 does not fit wire = 'uint8' (its row offsets are float16)")
    # Rounded outwards, so that no value of the row falls outside the 256 steps.
    offset = np.nextafter(least.astype(np.float16), np.float16(-np.inf), dtype=np.float16)
    offset = np.where(least.astype(np.float16) <= least, least.astype(np.float16), offset)
    scale = np.nextafter(((largest - offset) / 255).astype(np.float16), np.float16(np.inf), dtype=np.float16)
    codes = np.rint((rows - offset.astype(np.float32)) / scale.astype(np.float32))
    return {"rows": codes.clip(0, 255).astype(np.uint8), "offset": offset, "scale": scale}


def encode(rows: Tensor | np.ndarray, wire_format: str = "float32") -> ArrayRecord:
    """Return rows of logits (or soft labels) as a Flower record.

    Parameters
    ----------
    rows : Tensor or ndarray
        Finite values, [..., classes].
    wire_format : str
        One of `names()`.

    Raises
    ------
    InputError
        If the format is unknown, or a value is not finite or does not fit the format.
    """
    values = np.ascontiguousarray(rows.detach().cpu().numpy() if isinstance(rows, Tensor) else rows, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError("the rows to send hold NaN or Inf: the model diverged (lower learning-rate?)")
    return ArrayRecord({name: as_array(array) for name, array in FORMATS.get(wire_format)(values).items()})


def decode(record: ArrayRecord, shape: tuple[int | None, ...] | None = None) -> Tensor:
    """Return the rows that a record holds, as float32, after checking all that a node could get wrong.

    Parameters
    ----------
    record : ArrayRecord
        What `encode` made, on whatever machine.
    shape : tuple of int or None, optional
        The shape wanted; None stands for any size.

    Raises
    ------
    InputError
        If arrays are missing, of another dtype or shape than wanted, unreadable, or not finite.
    """
    arrays = {name: _read(name, array) for name, array in record.items()}
    rows = arrays.get("rows")
    if rows is None:
        raise InputError(f"no array 'rows' in the record (found: {', '.join(arrays) or 'nothing'})")
    if shape is not None and not _fits(rows.shape, shape):
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"rows of shape {' x '.join(map(str, rows.shape))} where {wanted} were wanted")
    if rows.dtype == np.uint8:
        for name in ("offset", "scale"):
            part = arrays.get(name)
            if part is None or part.dtype != np.float16 or part.shape != (*rows.shape[:-1], 1):
                raise InputError(f"uint8 rows need a float16 array {name!r} with one value a row")
        rows = rows.astype(np.float32) * arrays["scale"].astype(np.float32) + arrays["offset"].astype(np.float32)
    elif rows.dtype not in (np.float32, np.float16):
        raise InputError(f"rows of dtype {rows.dtype} (allowed: {', '.join(names())})")
    if not np.isfinite(rows).all():
        raise InputError("rows with NaN or Inf")
    return torch.from_numpy(rows.astype(np.float32, copy=False))


def encode_weights(weights: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a model's state as a Flower record, as `ArrayRecord(weights)` does."""
    return ArrayRecord({name: as_array(weight.detach().cpu().numpy()) for name, weight in weights.items()})


def decode_weights(record: ArrayRecord, like: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Return a model's weights from a record, after checking names, shapes and finiteness.

    Raises
    ------
    InputError
        If an array is missing, unknown, of another shape than in `like`, unreadable, or not finite.
    """
    if record.keys() != like.keys():
        odd = sorted(set(record.keys()) ^ set(like.keys()))
        raise InputError(f"weights of another model: {', '.join(odd[:3])} stand on one side only")
    weights = {name: _read(name, array) for name, array in record.items()}
    for name, weight in weights.items():
        if weight.shape != like[name]:
            raise InputError(f"weights {name!r} of shape {weight.shape} where {like[name]} were wanted")
        if not np.isfinite(weight).all():
            raise InputError(f"weights {name!r} with NaN or Inf")
    return weights


def message_bytes(message: Message) -> int:
    """Return the size of the serialized Flower message in bytes (metadata, config, metrics and arrays).

    The metadata's ids count with their full width: those of one run are longer on some engines than on others.
    """
    return METADATA_BYTES + len(message.error.reason or "") if message.has_error() else content_bytes(message.content)


def content_bytes(content: RecordDict) -> int:
    """Return the size of a serialized message with this content in bytes."""
    layout = tuple((name, _layout(record)) for name, record in content.items())
    size = _sizes.get(layout)
    if size is None:
        size = _sizes[layout] = int(recorddict_to_proto(content).ByteSize())
    return METADATA_BYTES + size


# What one message of a layout takes, all of that layout take: thousands of messages of a run are serialized once.
_sizes: dict[Hashable, int] = {}


def _layout(value: Any) -> Hashable:
    """Return all that the serialized size of a record or value depends on."""
    if isinstance(value, Array):
        return value.dtype, value.shape, value.stype, len(value.data)
    if isinstance(value, MutableMapping):
        return type(value), tuple((name, _layout(entry)) for name, entry in value.items())
    if isinstance(value, list):
        return tuple(_layout(entry) for entry in value)
    if isinstance(value, str | bytes):
        return type(value), len(value) if isinstance(value, bytes) else len(value.encode())
    if type(value) is int:  # as many bytes as its bits need
        return int, value < 0, (~value if value < 0 else value).bit_length()
    return cast(Hashable, type(value))


# 64 hexadecimal digits a message id, 64 bits a node, run or task id, a double a time; 3 bytes of keys and lengths each.
METADATA_BYTES = 2 * (64 + 3) + 5 * (10 + 1) + 2 * (8 + 1) + len("evaluate") + 2


def as_array(values: np.ndarray) -> Array:
    """Return what `Array(values)` returns, without numpy's slow writer."""
    dtype, shape = str(values.dtype), tuple(values.shape)
    return Array(dtype, shape, _NUMPY, _header(dtype, shape) + values.tobytes())


_NUMPY = "numpy.ndarray"


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return what stands before the values (C order) in numpy's file format."""
    header = BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _read(name: str, array: Array) -> np.ndarray:
    size = math.prod(array.shape)
    if size > len(array.data):  # each value takes a byte at least: memory is not for claims
        raise InputError(f"array {name!r} cannot be read: {len(array.data)} bytes for a shape of {array.shape}")
    if array.stype == _NUMPY and array.dtype in _NUMBERS:
        header = _header(array.dtype, array.shape)
        if array.data.startswith(header) and len(array.data) == len(header) + size * np.dtype(array.dtype).itemsize:
            return np.frombuffer(bytearray(array.data), array.dtype, offset=len(header)).reshape(array.shape)
    try:
        values = array.numpy()  # numpy's own format with pickling refused
    except (ValueError, TypeError, EOFError, OSError, MemoryError, SyntaxError) as error:
        raise InputError(f"array {name!r} cannot be read: {error}") from None
    if not (isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.number)):
        raise InputError(f"array {name!r} cannot be read: it holds no numbers")
    return values


_NUMBERS = frozenset(str(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"])


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))
