"""Wire formats of logits and soft labels by name: a codec, its coding, and checks of all that is sent and received."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from flower_kd.errors import InputError, of_type
from flower_kd.failures import describe, one_line
from flower_kd.parts.registry import Registry
from flower_kd.wire import codings
from flower_kd.wire.codings import Rows
from flower_kd.wire.records import (
    NUMBERS,
    Arrays,
    Layout,
    as_array,
    as_coded,
    check_layout,
    layout,
    read,
    read_coded,
    short_repr,
)

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
    Only names and dtypes are checked then: `decode` must itself refuse shapes that would cost too much memory. It does
    not go with `wire-coding = "entropy"` or `"delta"`, which need arrays of shape [..., any further axes].

    A codec that sends one symbol a row has a method `alphabet(classes)`. It returns how many different symbols there
    are, at most 2^63 - 1, or raises InputError. Such a codec's `encode` returns one array "rows" of unsigned integers
    below that, [...], of which log2(alphabet) bits each travel. Teachers are mixtures of such rows: they are not
    encoded, but travel as float32 values, equal rows only once.
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
def get(name: str, coding: str = "plain") -> WireFormat:
    """Return a wire format.

    Parameters
    ----------
    name : str
        One of `names()` or `module:attribute`, with settings in parentheses if it has any.
    coding : {"plain", "entropy", "delta"}
        How its arrays become bytes: as they are, entropy coded, or as what changed since the last message.

    Raises
    ------
    InputError
        If the name, a setting or the coding cannot be used, the codec lacks one of both ways, or its arrays cannot be
        coded.
    """
    codec = CODECS.make(name)
    if not (callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None))):
        raise InputError(f"wire format {name!r} is {of_type(codec)}, without the methods encode and decode")
    return WireFormat(name, codec, coding)


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
    coding : {"plain", "entropy", "delta"}
        How its arrays become bytes.

    Raises
    ------
    InputError
        If the coding is unknown, or the codec's arrays cannot be coded.
    """

    def __init__(self, name: str, codec: Codec, coding: str = "plain") -> None:
        codings.check(coding)
        self.name = name
        self.coding = coding
        self.codec = codec
        self._alphabet: Callable[[int], int] | None = getattr(codec, "alphabet", None)
        self._coded = self._alphabet is not None or coding != "plain"
        self._fixed_size = not getattr(codec, "variable_size", False)
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self._contents: dict[tuple[int, ...], Rows] = {}
        if self._coded and not self._fixed_size:
            raise InputError(
                f"wire format {name!r} has arrays without a fixed size (variable_size = True), which "
                + ("have no alphabet" if self._alphabet else f"wire-coding = {coding!r} does not take: use 'plain'")
            )

    def check(self, classes: int) -> None:
        """Raise InputError unless the logits of so many classes can be sent; for the time before any training."""
        if classes < 2:
            raise InputError(
                f"models with {classes} class cannot be distilled: their softmax is always 1 (allowed: at least 2)"
            )
        self.encode(np.zeros((2, classes), np.float32))

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
        if self._coded:
            return self.pack(self.words(rows), tuple(rows.shape))
        return ArrayRecord({name: as_array(array) for name, array in self._encoded(_sendable(rows)).items()})

    def decode(self, record: ArrayRecord, shape: tuple[int, ...] | None = None) -> Tensor:
        """Return the rows in a record as float32, after checking everything that a node could get wrong.

        Parameters
        ----------
        record : ArrayRecord
            A record made by `encode` on any machine.
        shape : tuple of int, optional
            The shape of the rows, which strategies and nodes know. If omitted, that of the record's array "rows", which
            formats without one, and coded arrays, do not allow.

        Raises
        ------
        InputError
            If the record is not in this format (arrays are missing, unknown, of another dtype or shape, or unreadable),
            or if its values are not finite or too large.
        """
        if shape is None:
            if self._coded or "rows" not in record:
                raise InputError(
                    f"wire format {self.name!r} needs the shape of the rows: no array 'rows' in the record with it"
                )
            check_layout(record)
            shape = tuple(record["rows"].shape)
        if self._coded:
            return self.values(self.unpack(record, shape), shape)
        found = layout(record)
        if found != self._layout_for(shape):
            check_layout(record)  # what it claims can be shown
            problem = self._mismatch(found, shape)
            if problem:
                raise InputError(f"rows that are not in wire format {self.name!r}: {problem}")
        return self._decoded({name: read(name, array) for name, array in record.items()}, shape)

    def encode_teacher(self, soft_labels: Tensor) -> ArrayRecord:
        """Return soft labels [..., classes] as a Flower record; their exact values, if the codec sends symbols."""
        if self._alphabet is None:
            return self.encode(soft_labels)
        values = _sendable(soft_labels)
        of = _floats(values.shape)
        return _coded_record(codings.write(_joined([values], of), of, self.coding))

    def decode_teacher(self, record: ArrayRecord, shape: tuple[int, ...]) -> Tensor:
        """Return soft labels of the given shape, after the same checks as `decode`."""
        if self._alphabet is None:
            return self.decode(record, shape)
        return _checked(self._read(record, _floats(shape), None).view("<f4").astype(np.float32).reshape(shape))

    # -- encoded rows as bytes, which deltas compare -------------------------------------------------------------------

    def words(self, rows: Tensor | np.ndarray) -> np.ndarray:
        """Return encoded rows as bytes, uint8 [rows, bytes]; raises InputError as `encode` does."""
        values = _sendable(rows)
        arrays, of = self._encoded(values), self._content(values.shape)
        if of.alphabet and len(arrays["rows"]) and arrays["rows"].max() >= of.alphabet:
            raise self._inconsistent(f"a symbol is {arrays['rows'].max()}, but must be below {of.alphabet}")
        return _joined(list(arrays.values()), of)

    def pack(self, words: np.ndarray, shape: tuple[int, ...], base: np.ndarray | None = None) -> ArrayRecord:
        """Return encoded rows as a Flower record.

        Parameters
        ----------
        words : ndarray
            The result of `words`.
        shape : tuple of int
            The shape of the rows, [..., classes].
        base : ndarray, optional
            The encoded rows that the recipient has; with the coding "delta", only what changed is sent.
        """
        return _coded_record(codings.write(words, self._content(shape), self.coding, base))

    def unpack(self, record: ArrayRecord, shape: tuple[int, ...], base: np.ndarray | None = None) -> np.ndarray:
        """Return encoded rows, uint8 [rows, bytes], from the result of `pack`.

        Raises
        ------
        InputError
            If the record is another one, corrupt or truncated, or needs a base that is not the given one.
        """
        return self._read(record, self._content(shape), base)

    def values(self, words: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        """Return the rows, float32 of the given shape, of encoded ones; raises InputError as `decode` does."""
        arrays, start = {}, 0
        parts = zip(self._layout_for(shape).items(), self._content(shape).widths, strict=True)
        for (name, (dtype, size)), (items, item_bytes) in parts:
            part = np.ascontiguousarray(words[:, start : start + items * item_bytes])
            arrays[name] = part.view(np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(size)
            start += items * item_bytes
        return self._decoded(arrays, shape)

    def row_bytes(self, classes: int) -> int:
        """Return the bytes of an encoded row."""
        return self._content((1, classes)).width

    def _read(self, record: ArrayRecord, of: Rows, base: np.ndarray | None) -> np.ndarray:
        try:
            check_layout(record)
            if list(record) != ["rows"]:
                raise InputError(f"its arrays are {short_repr(list(record))}, not just 'rows'")
            return codings.read(read_coded("rows", record["rows"]), of, base)
        except InputError as error:
            raise InputError(f"rows that are not in wire format {self.name!r}: {error}") from None

    def _content(self, shape: tuple[int, ...]) -> Rows:
        """Return what the rows of a shape consist of when they are encoded."""
        found = self._contents.get(shape)
        if found is None:
            rows, parts = shape[:-1], self._layout_for(shape)
            odd = next((name for name, (_, size) in parts.items() if size[: len(rows)] != rows), None)
            if odd is not None:
                raise InputError(
                    f"wire format {self.name!r} has an array {odd!r} of shape {_size(parts[odd][1])} for rows of shape "
                    f"{_size(shape)}, not one entry for each row: it cannot be coded, use wire-coding = 'plain'"
                )
            widths = [(math.prod(size[len(rows) :]), np.dtype(dtype).itemsize) for dtype, size in parts.values()]
            alphabet = self._alphabet(shape[-1]) if self._alphabet else 0
            if alphabet and [(dtype[:4], size) for dtype, size in parts.values()] != [("uint", rows)]:
                raise self._inconsistent("with an alphabet, its only array must be one unsigned integer a row")
            found = self._contents[shape] = Rows(math.prod(rows), widths, alphabet)
        return found

    def _encoded(self, values: np.ndarray) -> Arrays:
        """Return the codec's arrays for rows, after checking them."""
        arrays = self._arrays(values)
        problem = self._mismatch(_layout_of(arrays), values.shape)
        if problem:
            raise self._inconsistent(problem)
        return arrays

    def _arrays(self, values: np.ndarray) -> Arrays:
        values = values.view()
        values.flags.writeable = False  # these may be the model's own
        try:
            with np.errstate(all="ignore"):
                arrays = {name: array for name, array in self.codec.encode(values).items()}  # noqa: C416
                _layout_of(arrays)
                return arrays
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failure("encode", error) from error

    def _decoded(self, arrays: Arrays, shape: tuple[int, ...]) -> Tensor:
        """Return the rows that the codec decodes, after checking them."""
        try:
            with np.errstate(all="ignore"):  # the result is checked below
                values = self.codec.decode(arrays, shape)
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
        return _checked(values)

    def _failure(self, verb: str, error: BaseException) -> InputError:
        return InputError(f"wire format {self.name!r} cannot {verb} the rows: {one_line(describe(error))}")

    def _inconsistent(self, problem: str) -> InputError:
        return InputError(f"the codec of wire format {self.name!r} is not consistent: {problem}")

    def _layout_for(self, shape: tuple[int, ...]) -> Layout:
        """Return the layout of the codec's arrays for rows of a shape."""
        found = self._layouts.get(shape)
        if found is None:
            found = _layout_of(self._arrays(np.zeros(shape, np.float32)))
            for name, (dtype, _) in found.items():
                if dtype not in NUMBERS:
                    raise InputError(
                        f"wire format {self.name!r} encodes rows as an array {name!r} of dtype {dtype}, not of numbers"
                    )
            self._layouts[shape] = found
        return found

    def _mismatch(self, found: Layout, shape: tuple[int, ...]) -> str:
        """Return how arrays differ from those that the codec makes of rows of this shape; empty if not."""
        wanted = self._layout_for(shape)
        if found == wanted:
            return ""
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


def _sendable(rows: Tensor | np.ndarray) -> np.ndarray:
    """Return rows as float32 in C order; raises InputError if they may not be sent."""
    values = np.ascontiguousarray(rows.detach().cpu().numpy() if isinstance(rows, Tensor) else rows, np.float32)
    problem = _out_of_range(values, LARGEST)
    if problem:
        raise InputError(f"the rows to send contain {problem}: the model diverged (lower learning-rate?)")
    return values


def _checked(values: np.ndarray) -> Tensor:
    """Return received rows; raises InputError if a value is not finite or too large."""
    problem = _out_of_range(values, ROUNDING * LARGEST)
    if problem:
        raise InputError(f"rows with {problem}")
    return torch.from_numpy(values)


def _layout_of(arrays: Arrays) -> Layout:
    return {name: (array.dtype.name, tuple(array.shape)) for name, array in arrays.items()}


def _floats(shape: tuple[int, ...]) -> Rows:
    """Return what rows of float32 values consist of."""
    return Rows(math.prod(shape[:-1]), [(shape[-1], 4)])


def _joined(arrays: list[np.ndarray], of: Rows) -> np.ndarray:
    """Return the bytes of each row of all arrays, uint8 [rows, bytes], little-endian."""
    parts = [
        np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(of.count, items).view(np.uint8)
        for array, (items, _) in zip(arrays, of.widths, strict=True)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _coded_record(data: bytes) -> ArrayRecord:
    return ArrayRecord({"rows": as_coded(data)})


def _out_of_range(values: np.ndarray, limit: float) -> str:
    """Return what is invalid in values of logits or soft labels; empty if nothing."""
    largest = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(largest):
        return "NaN or Inf"
    return f"a value of {largest:g} (allowed: -{LARGEST:g} to {LARGEST:g})" if largest > limit else ""


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"
