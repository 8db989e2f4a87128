"""Arrays in Flower's records: written in one layout, and read in no other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from zlib import crc32

import numpy as np
from flwr.app import Array, ArrayRecord

from flower_kd.errors import InputError

Arrays = dict[str, np.ndarray]
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name

_NUMPY = "numpy.ndarray"
CODED = "coded"  # bytes without numpy's header of 128 bytes
_MOST_DIMENSIONS = 32

# torch's dtypes that numpy supports.
NUMBERS = frozenset(
    ["bool", "float16", "float32", "float64", "complex64", "complex128"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def as_array(values: np.ndarray) -> Array:
    """Return the same as `Array(values)`, without numpy's slow writer; always in C order and little-endian."""
    dtype, shape = values.dtype.name, tuple(values.shape)
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return Array(dtype, shape, _NUMPY, _header(dtype, shape) + data)


def as_coded(data: bytes) -> Array:
    """Return bytes that a coding made, as they are: both sides know what they are about."""
    return Array("", (), CODED, data)


def read_coded(name: str, array: Array) -> bytes:
    """Return the bytes of `as_coded`; raises InputError for any other array."""
    if array.stype != CODED:
        raise InputError(f"array {short_repr(name)} is written as {short_repr(array.stype)}, not as {CODED!r}")
    _check_coded(name, array)
    return array.data


def canonical(record: ArrayRecord) -> ArrayRecord:
    """Return a trusted record in the layout of `as_array`; Flower writes some arrays in Fortran order."""
    return ArrayRecord({name: as_array(array.numpy()) for name, array in record.items()})


def layout(record: ArrayRecord) -> Layout:
    """Return the dtypes and shapes that a record claims, by name."""
    return {name: (array.dtype, tuple(array.shape)) for name, array in record.items()}


def check_layout(record: ArrayRecord) -> None:
    """Raise InputError unless each array is as `as_array` or `as_coded` writes it; numpy's reader is never used."""
    for name, array in record.items():
        (_check_coded if array.stype == CODED else _check_layout)(name, array)


def read(name: str, array: Array) -> np.ndarray:
    """Return an array's values in memory of their own; raises InputError unless `as_array` could have written it."""
    offset = _check_layout(name, array)
    values = np.frombuffer(bytearray(array.data), np.dtype(array.dtype).newbyteorder("<"), offset=offset)
    return values.astype(array.dtype, copy=False).reshape(array.shape)


def digest(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the CRC-32 of arrays in the order of their names, or 1 if it is 0: both sides tell what they have by it.

    It is a check for accidents, not against attacks.
    """
    found = 0
    for name in sorted(arrays):
        found = crc32(np.ascontiguousarray(arrays[name]).data, found)
    return found or 1


def short_repr(value: object) -> str:
    """Return the repr of a value from a sender, shortened to fit in a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        text = "a number with thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_coded(name: str, array: Array) -> None:
    if array.dtype or array.shape:
        raise InputError(
            f"array {short_repr(name)} cannot be read: coded bytes that claim to be {short_repr(array.dtype)} of shape "
            f"{short_repr(array.shape)}"
        )


def _check_layout(name: str, array: Array) -> int:
    """Return the length of an array's header; raises InputError unless `as_array` could have written it."""
    dtype, shape, data = array.dtype, array.shape, array.data
    if array.stype != _NUMPY or dtype not in NUMBERS:
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


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of numpy's file format (C order)."""
    header = BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()
