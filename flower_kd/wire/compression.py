"""Compression of weights in messages, and the checks of all that is sent and received.

What is compressed is the difference of a node's parameters from a base that the receiver has too. Buffers, such as the
statistics and counters of batch normalization, travel as they are: a running variance must not become negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import lru_cache
from typing import Protocol

import numpy as np
from flwr.app import ArrayRecord

from flower_kd.errors import InputError, of_type
from flower_kd.failures import describe, one_line
from flower_kd.parts.registry import Registry
from flower_kd.wire.records import NUMBERS, Arrays, as_array, check_layout, read, short_repr

NONE = "none"  # the name of no compression
BUFFER = "buffer."  # how the names of arrays that travel as they are begin
LARGEST_RATIO = 2  # of a compressed message to the weights it stands for; a larger one is refused
SMALL_BYTES = 4096  # a message up to this size is never too large

Shapes = Mapping[str, tuple[int, ...]]


class Compression(Protocol):
    """Turns a difference of weights into few bytes, and back.

    One object serves all messages of a process, so it keeps nothing between two of them: what it leaves out, nodes
    remember and send later. It must bring back more than nothing, or what is left out grows without bound: the error
    of what it returns is smaller than the difference itself (Koloskova, Stich and Jaggi 2019, assumption 1).

    Around it, everything is checked: `decompress` gets arrays of the names and dtypes that `compress` returns, of at
    most twice the size of the weights, but of any shape. Whatever it raises, or returns in a wrong shape or not finite,
    excludes the node that sent the arrays from the exchange.

    The attribute `consensus_step`, in (0, 1], is the default of the argument of `d-sgd` with this name; 1 if there is
    none.
    """

    def compress(self, update: Arrays) -> Arrays:
        """Return arrays of numbers by name for float32 arrays by name, in the order of names and read-only."""

    def decompress(self, arrays: Arrays, shapes: Shapes) -> Arrays:
        """Return float32 arrays of these names and shapes, in the order of names, from the result of `compress`."""


COMPRESSIONS: Registry[type[Compression]] = Registry("compression", group="flower_kd.compressions")


@lru_cache(maxsize=64)
def get(name: str) -> Compressor:
    """Return a compression by its name, with settings in parentheses if it has any.

    Raises
    ------
    InputError
        If the name or a setting cannot be used, or the compression lacks one of both ways.
    """
    part = COMPRESSIONS.make(name)
    if not (callable(getattr(part, "compress", None)) and callable(getattr(part, "decompress", None))):
        raise InputError(f"compression {name!r} is {of_type(part)}, without the methods compress and decompress")
    return Compressor(name, part)


def difference(weights: Arrays, base: Arrays, names: Set[str]) -> Arrays:
    """Return what must be added to some arrays of a base to get those of `weights`, as float32."""
    return {
        name: np.asarray(np.subtract(weights[name], base[name], dtype=np.float32)) for name in weights if name in names
    }


def moved(base: Arrays, update: Arrays) -> Arrays:
    """Return a base with an update added to the arrays it is about: equal bits on all machines."""
    with np.errstate(over="ignore"):  # a receiver checks the result
        return base | {
            name: np.asarray(base[name].astype(np.float32, copy=False) + change, base[name].dtype)
            for name, change in update.items()
        }


class Compressor:
    """A compression with a name, around which everything is checked that the other side, or it itself, could get wrong.

    Parameters
    ----------
    name : str
        The name in error messages.
    part : Compression
        Any object with `compress` and `decompress`.
    """

    def __init__(self, name: str, part: Compression) -> None:
        self.name = name
        self._part = part
        self.consensus_step = float(getattr(part, "consensus_step", 1.0))
        if not 0 < self.consensus_step <= 1:
            raise InputError(
                f"consensus_step = {self.consensus_step} of compression {name!r} must be above 0, at most 1"
            )
        self._dtypes: dict[tuple[tuple[str, tuple[int, ...]], ...], dict[str, str]] = {}

    def compress(self, update: Arrays, buffers: Arrays) -> tuple[ArrayRecord, Arrays]:
        """Return an update of parameters, and buffers, as a Flower record; and what the receiver gets as the update.

        Parameters
        ----------
        update : dict of ndarray
            Differences of parameters by name, float32.
        buffers : dict of ndarray
            What travels as it is, by name.

        Raises
        ------
        InputError
            If the update is not finite, or the compression fails or is not consistent.
        """
        if any(not np.isfinite(change).all() for change in update.values()):
            raise InputError("the weights to send contain NaN or Inf: the model diverged (lower learning-rate?)")
        arrays = self._compressed(update)
        received = self._decompressed(arrays, _shapes(update))
        record = ArrayRecord({name: as_array(array) for name, array in arrays.items()})
        for name, array in buffers.items():
            record[f"{BUFFER}{name}"] = as_array(array)
        return record, received

    def decompress(self, record: ArrayRecord, base: Arrays) -> Arrays:
        """Return the weights that a record of `compress` stands for, after checking all that a node could get wrong.

        Parameters
        ----------
        record : ArrayRecord
            A record made by `compress` on any machine.
        base : dict of ndarray
            The weights from which the update is the difference.

        Raises
        ------
        InputError
            If the record is not of this compression and this model, too large, or not finite.
        """
        check_layout(record)
        size, dense = sum(len(array.data) for array in record.values()), sum(array.nbytes for array in base.values())
        if size > max(LARGEST_RATIO * dense, SMALL_BYTES):
            raise InputError(f"compressed weights of {size:,} bytes stand for weights of {dense:,} bytes")
        sent = {name: read(name, array) for name, array in record.items()}
        buffers = {name.removeprefix(BUFFER): array for name, array in sent.items() if name.startswith(BUFFER)}
        for name, array in buffers.items():
            if name not in base:
                raise InputError(f"weights of another model: {short_repr(name)} is unknown")
            if (array.dtype, array.shape) != (base[name].dtype, base[name].shape):
                raise InputError(
                    f"weights of another model: {name!r} is {array.dtype.name!r} of shape {array.shape}, not "
                    f"{base[name].dtype.name!r} of shape {base[name].shape}"
                )
            if not np.isfinite(array).all():
                raise InputError(f"weights {name!r} with NaN or Inf")
        shapes = _shapes({name: array for name, array in base.items() if name not in buffers})
        whole = next((name for name in shapes if not is_compressed(base[name])), None)
        if whole is not None:
            raise InputError(f"compressed weights lack {whole!r}, which must travel as it is")
        arrays = {name: array for name, array in sent.items() if not name.startswith(BUFFER)}
        problem = self._mismatch(arrays, shapes)
        if problem:
            raise InputError(f"weights that are not in compression {self.name!r}: {problem}")
        weights = moved(base, self._decompressed(arrays, shapes)) | buffers
        for name in shapes:
            if not np.isfinite(weights[name]).all():
                raise InputError(f"weights {name!r} with NaN or Inf")
        return weights

    def _compressed(self, update: Arrays) -> Arrays:
        views = {name: update[name].view() for name in sorted(update)}
        for view in views.values():
            view.flags.writeable = False
        try:
            with np.errstate(all="ignore"):
                arrays = {
                    name: np.asarray(array) if isinstance(array, np.generic) else array  # of arrays without dimensions
                    for name, array in self._part.compress(views).items()
                }
                for name, array in arrays.items():
                    if not isinstance(name, str) or name.startswith(BUFFER):
                        raise TypeError(f"compress() must return arrays by names that do not begin with {BUFFER!r}")
                    if not isinstance(array, np.ndarray) or array.dtype.name not in NUMBERS:
                        raise TypeError(f"compress() must return arrays of numbers: {name!r} is {_kind(array)}")
        except (Exception, SystemExit) as error:
            raise self._failure("compress", error) from error
        return arrays

    def _decompressed(self, arrays: Arrays, shapes: Shapes) -> Arrays:
        """Return finite float32 arrays of exactly these names and shapes."""
        try:
            with np.errstate(all="ignore"):  # the result is checked below
                update = self._part.decompress(dict(arrays), dict(shapes))
                if not isinstance(update, Mapping) or update.keys() != shapes.keys():
                    raise TypeError("decompress() must return one array for each name in shapes")
                update = {
                    n: np.asarray(change) if isinstance(change, np.generic) else change for n, change in update.items()
                }
                for name, change in update.items():
                    if not isinstance(change, np.ndarray) or change.dtype.kind != "f" or change.shape != shapes[name]:
                        wanted = f"an array of floats of shape {shapes[name]}"
                        raise TypeError(f"decompress() returns {_kind(change)} for {name!r}, not {wanted}")
        except (Exception, SystemExit) as error:
            raise self._failure("decompress", error) from error
        update = {name: np.asarray(update[name], np.float32) for name in shapes}
        odd = next((name for name, change in update.items() if not np.isfinite(change).all()), None)
        if odd is not None:
            raise InputError(f"compression {self.name!r} returns NaN or Inf for {odd!r}")
        return update

    def _failure(self, verb: str, error: BaseException) -> InputError:
        return InputError(f"compression {self.name!r} cannot {verb} the weights: {one_line(describe(error))}")

    def _mismatch(self, arrays: Arrays, shapes: Shapes) -> str:
        """Return how names or dtypes differ from those that the compression makes; empty if not."""
        key = tuple(shapes.items())
        if key not in self._dtypes:
            zeros = self._compressed({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
            self._dtypes[key] = {name: array.dtype.name for name, array in zeros.items()}
        wanted = self._dtypes[key]
        for name in wanted:
            if name not in arrays:
                return f"no array {name!r} in the record"
        for name, array in arrays.items():
            if name not in wanted:
                return f"an array {short_repr(name)} that it does not have"
            if array.dtype.name != wanted[name]:
                return f"array {name!r} has dtype {array.dtype.name!r} where {wanted[name]!r} was expected"
        return ""


def is_compressed(parameter: np.ndarray) -> bool:
    """Return whether parameters of this dtype are compressed; others travel as they are."""
    return parameter.dtype.kind == "f"


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Return shapes in the order of names: it is the same on both sides, while records may have any."""
    return {name: arrays[name].shape for name in sorted(arrays)}


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return f"{of_type(value)}"
