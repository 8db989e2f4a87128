"""Weights that nodes send: which of them can be used."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, RecordDict

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.protocol import ARRAYS
from flower_kd.strategies.network import most_common


def usable_weights(
    contents: Mapping[int, RecordDict], initial: ArrayRecord | None = None
) -> tuple[dict[int, wire.Arrays], dict[int, str]]:
    """Return the weights by vertex, and why the others cannot be used.

    Names, dtypes and shapes are those of most nodes, and of the initial weights in a tie: one bad reply must not make
    the others the odd ones.
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
    return usable, refused
