"""Selection of usable weights from nodes' replies."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median_low

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.protocol import ARRAYS
from flower_kd.strategies.handshake import most_common

LARGEST_RATIO = 100


def usable_weights(
    contents: Mapping[int, RecordDict], initial: ArrayRecord | None = None
) -> tuple[dict[int, wire.Arrays], dict[int, str]]:
    """Return the usable weights by vertex, and why the others cannot be used.

    Names, dtypes and shapes are those of the majority, or of the initial weights in a tie, so that one bad reply cannot
    disqualify the others. Weights may be at most `LARGEST_RATIO` times as large as the median (or 1): larger ones would
    dominate the mean, and overflow in a step or two.
    """
    layouts: dict[int, wire.Layout] = {}
    records: dict[int, ArrayRecord] = {}
    refused: dict[int, str] = {}
    for vertex, content in contents.items():
        record = content.get(ARRAYS)
        if not isinstance(record, ArrayRecord):
            refused[vertex] = "its reply has no weights"
        else:
            records[vertex] = record
            layouts[vertex] = wire.layout(record)
    usable: dict[int, wire.Arrays] = {}
    votes = [wire.layout(initial)] if initial else []
    votes += layouts.values()
    common = dict(most_common(frozenset(layout.items()) for layout in votes)) if layouts else {}
    for vertex in layouts:
        try:
            usable[vertex] = wire.decode_weights(records[vertex], common)
        except InputError as error:
            refused[vertex] = str(error)
    sizes = {vertex: _largest(weights) for vertex, weights in usable.items()}
    limit = LARGEST_RATIO * max(1.0, median_low(sizes.values())) if sizes else 0.0
    for vertex, size in sizes.items():
        if size > limit:
            del usable[vertex]
            refused[vertex] = f"weights of up to {size:.3g} (at most {limit:.3g}: {LARGEST_RATIO} times the median)"
    return usable, refused


def _largest(weights: wire.Arrays) -> float:
    """Return the largest absolute value of the floating-point weights."""
    floats = (array for array in weights.values() if np.issubdtype(array.dtype, np.floating))
    return max((float(max(array.max(initial=0.0), -array.min(initial=0.0))) for array in floats), default=0.0)
