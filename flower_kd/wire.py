"""Wire formats of logits and soft labels: encoding, quantization, validation, byte counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from functools import lru_cache
from io import BytesIO
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from torch import Tensor

from flower_kd.errors import InputError
from flower_kd.parts import Registry

Arrays = dict[str, np.ndarray]

# The largest absolute value of a logit in any format, that of float16: all formats detect divergence alike.
LARGEST = 65504.0

FORMATS: Registry[Callable[[np.ndarray], Arrays]] = Registry("wire format")


def names() -> list[str]:
    """Return the names of the wire formats."""
    return FORMATS.names()


@FORMATS.register("float32")
def _float32(rows: np.ndarray) -> Arrays:
    return {"rows": rows}


@FORMATS.register("float16")
def _float16(rows: np.ndarray) -> Arrays:
    return {"rows": rows.astype(np.float16)}


@FORMATS.register("uint8")
def _uint8(rows: np.ndarray) -> Arrays:
    """Quantize each row to 256 steps between its minimum and maximum: 6 bytes per row in addition to the codes.

    The error is at most 0.504 of the row's step (1/255 of its range), plus the rounding of float32.
    """
    least = rows.min(axis=-1, keepdims=True)
    scale = _upper_half((rows.max(axis=-1, keepdims=True) - least) / np.float32(255))
    step = _from_upper_half(scale)
    codes = np.rint(np.divide(rows - least, step, out=np.zeros_like(rows), where=step > 0))
    return {"rows": codes.clip(0, 255).astype(np.uint8), "offset": least, "scale": scale}


def _upper_half(values: np.ndarray) -> np.ndarray:
    """Return the upper 16 bits of positive float32 values, rounded up: all of their range, with 8 bits of precision."""
    return ((values.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)


def _from_upper_half(halves: np.ndarray) -> np.ndarray:
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode(rows: Tensor | np.ndarray, wire_format: str = "float32") -> ArrayRecord:
    """Return rows of logits (or soft labels) as a Flower record.

    Parameters
    ----------
    rows : Tensor or ndarray
        Values from -65504 to 65504 (`LARGEST`), [..., classes].
    wire_format : str
        One of `names()`.

    Raises
    ------
    InputError
        If the format is unknown, or a value is not finite or too large.
    """
    values = np.ascontiguousarray(rows.detach().cpu().numpy() if isinstance(rows, Tensor) else rows, dtype=np.float32)
    problem = _out_of_range(values)
    if problem:
        raise InputError(f"the rows to send contain {problem}: the model diverged (lower learning-rate?)")
    return ArrayRecord({name: as_array(array) for name, array in FORMATS.get(wire_format)(values).items()})


def decode(record: ArrayRecord, shape: tuple[int | None, ...] | None = None) -> Tensor:
    """Return the rows in a record as float32, after checking everything that a node could get wrong.

    Parameters
    ----------
    record : ArrayRecord
        A record made by `encode` on any machine.
    shape : tuple of int or None, optional
        The expected shape; None stands for any size.

    Raises
    ------
    InputError
        If arrays are missing, of an unexpected dtype or shape, unreadable, or not finite.
    """
    if "rows" not in record:
        raise InputError("no array 'rows' in the record")
    array = record["rows"]
    quantized = array.dtype == "uint8"
    unknown = record.keys() - {"rows", "offset", "scale"} if quantized else record.keys() - {"rows"}
    if unknown:
        raise InputError(f"an array {short_repr(min(unknown))} beside {array.dtype} rows")
    rows = _read("rows", array)
    if shape is not None and not _fits(rows.shape, shape):
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"rows of shape {' x '.join(map(str, rows.shape))} where {wanted} was expected")
    if quantized:
        offset, scale = (_per_row(record, name, dtype, rows.shape) for name, dtype in _PER_ROW.items())
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked below
            rows = rows.astype(np.float32) * _from_upper_half(scale) + offset
    elif rows.dtype not in (np.float32, np.float16):
        raise InputError(f"rows of dtype {rows.dtype} (allowed: {', '.join(names())})")
    problem = _out_of_range(rows, 1.01 * LARGEST if quantized else LARGEST)  # quantized rows are rounded by half a step
    if problem:
        raise InputError(f"rows with {problem}")
    return torch.from_numpy(rows.astype(np.float32, copy=False))


_PER_ROW = {"offset": "float32", "scale": "uint16"}


def _per_row(record: ArrayRecord, name: str, dtype: str, rows: tuple[int, ...]) -> np.ndarray:
    """Return an array with one value per quantized row."""
    if name not in record or record[name].dtype != dtype or record[name].shape != (*rows[:-1], 1):
        raise InputError(f"uint8 rows need a {dtype} array {name!r} with one value per row")
    return _read(name, record[name])


def _out_of_range(values: np.ndarray, limit: float = LARGEST) -> str:
    """Return what is invalid in values of logits or soft labels; empty if nothing."""
    largest = np.abs(values).max(initial=0.0)
    if not np.isfinite(largest):
        return "NaN or Inf"
    return f"a value of {largest:g} (allowed: -{LARGEST:g} to {LARGEST:g})" if largest > limit else ""


def encode_weights(weights: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a model's state as a Flower record, as `ArrayRecord(weights)` does.

    Raises
    ------
    InputError
        If a weight has a dtype that numpy, and therefore Flower, does not support (bfloat16).
    """
    arrays = {}
    for name, weight in weights.items():
        try:
            arrays[name] = as_array(weight.detach().cpu().numpy())
        except TypeError:
            dtype = str(weight.dtype).removeprefix("torch.")
            raise InputError(f"weights {name!r} are {dtype}, which numpy does not support: use float32") from None
    return ArrayRecord(arrays)


Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name


def layout(record: ArrayRecord) -> Layout:
    """Return the dtypes and shapes that a record claims, by name."""
    return {name: (array.dtype, tuple(array.shape)) for name, array in record.items()}


def layout_of(weights: Mapping[str, Tensor]) -> Layout:
    """Return the dtypes and shapes of a model's state, by name."""
    return {name: (str(weight.dtype).removeprefix("torch."), tuple(weight.shape)) for name, weight in weights.items()}


def decode_weights(record: ArrayRecord, like: Layout) -> Arrays:
    """Return a model's weights from a record, after checking names, dtypes, shapes and finiteness.

    Raises
    ------
    InputError
        If an array is missing, unknown, of another dtype or shape than in `like`, unreadable, or not finite.
    """
    if record.keys() != like.keys():
        odd = min(record.keys() ^ like.keys())
        raise InputError(f"weights of another model: {short_repr(odd)} is {'unknown' if odd in record else 'missing'}")
    weights = {}
    for name, (dtype, shape) in like.items():
        array = record[name]
        if array.dtype != dtype or tuple(array.shape) != shape:
            raise InputError(
                f"weights of another model: {name!r} is {short_repr(array.dtype)} of shape {short_repr(array.shape)}, "
                f"not {dtype!r} of shape {shape}"
            )
        weights[name] = _read(name, array)
        if not np.isfinite(weights[name]).all():
            raise InputError(f"weights {name!r} with NaN or Inf")
    return weights


def canonical(record: ArrayRecord) -> ArrayRecord:
    """Return a trusted record in the layout of `as_array`; Flower writes some arrays in Fortran order."""
    return ArrayRecord({name: as_array(array.numpy()) for name, array in record.items()})


def short_repr(value: object) -> str:
    """Return the repr of a value from a sender, shortened to fit in a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        text = "a number with thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def message_bytes(message: Message) -> int:
    """Return the size of the serialized Flower message in bytes (metadata, config, metrics and arrays).

    Ids in the metadata count with their full width, as their length depends on the engine.
    """
    return METADATA_BYTES + len(message.error.reason or "") if message.has_error() else content_bytes(message.content)


def reply_bytes(name: str, record: ArrayRecord, num_examples: int) -> int:
    """Return the size in bytes of a node's reply to a train message with this record, including its metrics."""
    metrics = MetricRecord({"train-loss": 0.0, "kd-loss": 0.0, "num-examples": num_examples, "seconds": 0.0})
    return content_bytes(RecordDict({"metrics": metrics, name: record}))


def content_bytes(content: RecordDict) -> int:
    """Return the size of a serialized message with this content in bytes."""
    layout = tuple((name, _layout(record)) for name, record in content.items())
    size = _sizes.get(layout)
    if size is None:
        size = _sizes[layout] = int(recorddict_to_proto(content).ByteSize())
    return METADATA_BYTES + size


# Messages with the same layout have the same size, so that thousands of messages are serialized only once.
_sizes: dict[Hashable, int] = {}


def _layout(value: Any) -> Hashable:
    """Return everything that the serialized size of a record or value depends on."""
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


# Message ids of 64 hex digits, node, run and task ids of 64 bits, times as doubles; keys and lengths.
METADATA_BYTES = 2 * (64 + 3) + 5 * (10 + 1) + 2 * (8 + 1) + len("evaluate") + 2


def as_array(values: np.ndarray) -> Array:
    """Return the same as `Array(values)`, without numpy's slow writer; always in C order and little-endian."""
    dtype, shape = values.dtype.name, tuple(values.shape)
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return Array(dtype, shape, _NUMPY, _header(dtype, shape) + data)


_NUMPY = "numpy.ndarray"


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of numpy's file format (C order)."""
    header = BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def check_layout(record: ArrayRecord) -> None:
    """Raise InputError unless each array is as `as_array` writes it; numpy's own reader is never used."""
    for name, array in record.items():
        _check_layout(name, array)


def _check_layout(name: str, array: Array) -> int:
    """Return the length of an array's header; raises InputError unless `as_array` could have written it."""
    dtype, shape, data = array.dtype, array.shape, array.data
    if array.stype != _NUMPY or dtype not in _NUMBERS:
        raise InputError(
            f"array {short_repr(name)} cannot be read: dtype {short_repr(dtype)}, written as {short_repr(array.stype)}"
        )
    if len(shape) > _MOST_DIMENSIONS or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise InputError(f"array {short_repr(name)} cannot be read: it claims a shape of {short_repr(shape)}")
    values = math.prod(shape) * np.dtype(dtype).itemsize
    if values > len(data):  # allocate nothing for a mere claim
        raise InputError(
            f"array {short_repr(name)} cannot be read: {len(data)} bytes for a shape of {short_repr(shape)}"
        )
    header = _header(dtype, tuple(shape))
    if len(data) != len(header) + values or not data.startswith(header):
        raise InputError(
            f"array {short_repr(name)} cannot be read: its header is not that of {dtype} and shape {short_repr(shape)}"
        )
    return len(header)


def _read(name: str, array: Array) -> np.ndarray:
    offset = _check_layout(name, array)
    values = np.frombuffer(bytearray(array.data), np.dtype(array.dtype).newbyteorder("<"), offset=offset)
    return values.astype(array.dtype, copy=False).reshape(array.shape)


_MOST_DIMENSIONS = 32

# torch's dtypes that numpy supports.
_NUMBERS = frozenset(
    ["bool", "float16", "float32", "float64", "complex64", "complex128"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))
