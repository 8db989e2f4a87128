"""Weights of a model as records and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord
from torch import Tensor

from flower_kd.errors import InputError
from flower_kd.wire.records import Arrays, Layout, as_array, read, short_repr


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
        weights[name] = read(name, array)
        if not np.isfinite(weights[name]).all():
            raise InputError(f"weights {name!r} with NaN or Inf")
    return weights
