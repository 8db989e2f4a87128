"""Wire formats of logits and soft labels by name: a codec, and the checks of all that it sends and receives."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from flower_kd.errors import InputError
from flower_kd.failures import describe, one_line
from flower_kd.parts.registry import Registry
from flower_kd.wire.records import NUMBERS, Arrays, Layout, as_array, check_layout, layout, read, short_repr

# The largest absolute value of a logit in any format, that of float16: all formats detect divergence alike.
LARGEST = 65504.0
ROUNDING = 1.01  # what a codec may add to the largest value that it was given


class Codec(Protocol):
    """Turns values into the arrays that travel, and back.

    One object serves all messages of a process, so it keeps nothing between two of them. What is sent and received is
    checked around it: `decode` gets arrays of exactly the names, dtypes and shapes that `encode` returns for values of
    this shape, and whatever it raises, or returns in a wrong shape, out of range or not finite, excludes the node that
    sent the arrays from the exchange.

    A codec whose arrays depend in shape also on the values (a compressed one) has the attribute `variable_size = True`.
    Only names and dtypes are checked then: `decode` must itself refuse shapes that would cost too much memory.
    """

    def encode(self, values: np.ndarray) -> Arrays:
        """Return arrays of numbers by name for float32 values [..., classes], read-only and up to `LARGEST`."""

    def decode(self, arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        """Return the values, of the given shape and any floating dtype, from the result of `encode` on any machine."""


CODECS: Registry[type[Codec]] = Registry("wire format", group="flower_kd.codecs")


def names() -> list[str]:
    """Return the names of the wire formats."""
    return CODECS.names()


@lru_cache(maxsize=64)
def get(name: str) -> WireFormat:
    """Return a wire format.

    Parameters
    ----------
    name : str
        One of `names()` or `module:attribute`, with settings in parentheses if it has any.

    Raises
    ------
    InputError
        If the name or a setting cannot be used, or the codec lacks one of both ways.
    """
    codec = CODECS.make(name)
    if not (callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None))):
        raise InputError(f"wire format {name!r} is a {type(codec).__name__}, without the methods encode and decode")
    return WireFormat(name, codec)


def encode(rows: Tensor | np.ndarray, wire_format: str = "float32") -> ArrayRecord:
    """Return `get(wire_format).encode(rows)`."""
    return get(wire_format).encode(rows)


def decode(record: ArrayRecord, shape: tuple[int, ...] | None = None, wire_format: str = "float32") -> Tensor:
    """Return `get(wire_format).decode(record, shape)`."""
    return get(wire_format).decode(record, shape)


class WireFormat:
    """A codec with a name, around which everything is checked that the other side, or the codec, could get wrong.

    Parameters
    ----------
    name : str
        The name in error messages.
    codec : Codec
        Any object with `encode` and `decode`.
    """

    def __init__(self, name: str, codec: Codec) -> None:
        self.name = name
        self._codec = codec
        self._fixed_size = not getattr(codec, "variable_size", False)
        self._layouts: dict[tuple[int, ...], Layout] = {}

    def encode(self, rows: Tensor | np.ndarray) -> ArrayRecord:
        """Return rows of logits (or soft labels) as a Flower record.

        Parameters
        ----------
        rows : Tensor or ndarray
            Values from -65504 to 65504 (`LARGEST`), [..., classes].

        Raises
        ------
        InputError
            If a value is not finite or too large, or the codec fails.
        """
        values = np.ascontiguousarray(rows.detach().cpu().numpy() if isinstance(rows, Tensor) else rows, np.float32)
        problem = _out_of_range(values, LARGEST)
        if problem:
            raise InputError(f"the rows to send contain {problem}: the model diverged (lower learning-rate?)")
        record = self._encoded(values)
        problem = self._mismatch(record, values.shape)
        if problem:
            raise InputError(f"the codec of wire format {self.name!r} is not consistent: {problem}")
        return record

    def decode(self, record: ArrayRecord, shape: tuple[int, ...] | None = None) -> Tensor:
        """Return the rows in a record as float32, after checking everything that a node could get wrong.

        Parameters
        ----------
        record : ArrayRecord
            A record made by `encode` on any machine.
        shape : tuple of int, optional
            The shape of the rows, which strategies and nodes know. If omitted, that of the record's array "rows", which
            formats without one do not allow.

        Raises
        ------
        InputError
            If the record is not in this format (arrays are missing, unknown, of another dtype or shape, or unreadable),
            or if its values are not finite or too large.
        """
        if shape is None:
            if "rows" not in record:
                raise InputError(
                    f"wire format {self.name!r} needs the shape of the rows: no array 'rows' in the record"
                )
            check_layout(record)
            shape = tuple(record["rows"].shape)
        problem = self._mismatch(record, shape)
        if problem:
            raise InputError(f"rows that are not in wire format {self.name!r}: {problem}")
        arrays = {name: read(name, array) for name, array in record.items()}
        try:
            with np.errstate(all="ignore"):  # the result is checked below
                values = self._codec.decode(arrays, shape)
                if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
                    raise TypeError("decode() must return an array of floats")
                values = np.asarray(values)  # subclasses compute in their own ways
                if values.shape == shape:  # otherwise a mere view of one number could take all memory
                    values = np.require(values, np.float32, ["C", "W"])
        except (Exception, SystemExit) as error:
            raise self._failure("decode", error) from error
        if values.shape != shape:
            raise InputError(
                f"wire format {self.name!r} decoded the rows to {_size(values.shape)} where {_size(shape)} was expected"
            )
        problem = _out_of_range(values, ROUNDING * LARGEST)
        if problem:
            raise InputError(f"rows with {problem}")
        return torch.from_numpy(values)

    def _encoded(self, values: np.ndarray) -> ArrayRecord:
        """Return the codec's arrays as a record."""
        values = values.view()
        values.flags.writeable = False  # these may be the model's own
        try:
            with np.errstate(all="ignore"):
                return ArrayRecord({name: as_array(array) for name, array in self._codec.encode(values).items()})
        except (Exception, SystemExit) as error:
            raise self._failure("encode", error) from error

    def _failure(self, verb: str, error: BaseException) -> InputError:
        return InputError(f"wire format {self.name!r} cannot {verb} the rows: {one_line(describe(error))}")

    def _layout_for(self, shape: tuple[int, ...]) -> Layout:
        """Return the layout of the codec's arrays for rows of a shape."""
        found = self._layouts.get(shape)
        if found is None:
            found = layout(self._encoded(np.zeros(shape, np.float32)))
            for name, (dtype, _) in found.items():
                if dtype not in NUMBERS:
                    raise InputError(
                        f"wire format {self.name!r} encodes rows as an array {name!r} of dtype {dtype}, not of numbers"
                    )
            self._layouts[shape] = found
        return found

    def _mismatch(self, record: ArrayRecord, shape: tuple[int, ...]) -> str:
        """Return how the arrays differ from those that the codec makes of rows of this shape; empty if not."""
        wanted = self._layout_for(shape)
        found = layout(record)
        if found == wanted:
            return ""
        check_layout(record)  # what it claims can be shown
        for name in wanted:
            if name not in found:
                return f"no array {name!r} in the record"
        for name, (dtype, size) in found.items():
            if name not in wanted:
                return f"an array {short_repr(name)} that it does not have"
            if dtype != wanted[name][0]:
                return f"array {name!r} has dtype {short_repr(dtype)} where {wanted[name][0]!r} was expected"
            if self._fixed_size and size != wanted[name][1]:
                return f"array {name!r} has shape {_size(size)} where {_size(wanted[name][1])} was expected"
        return ""


def _out_of_range(values: np.ndarray, limit: float) -> str:
    """Return what is invalid in values of logits or soft labels; empty if nothing."""
    largest = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(largest):
        return "NaN or Inf"
    return f"a value of {largest:g} (allowed: -{LARGEST:g} to {LARGEST:g})" if largest > limit else ""


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"
