"""Weights that nodes send: which of them can be used."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, RecordDict

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.protocol import ARRAYS
from flower_kd.strategies.network import most_common


def usable_weights(contents: Mapping[int, RecordDict]) -> tuple[dict[int, wire.Arrays], dict[int, str]]:
    """Return the weights by vertex, and why the others cannot be used.

    Names and shapes are those of most nodes: one rubbish reply must not make the others the odd ones.
    """
    layouts: dict[int, dict[str, tuple[int, ...]]] = {}
    records: dict[int, ArrayRecord] = {}
    refused: dict[int, str] = {}
    for vertex, content in contents.items():
        record = content.get(ARRAYS)
        if not isinstance(record, ArrayRecord):
            refused[vertex] = "its reply has no weights"
        else:
            records[vertex] = record
            layouts[vertex] = {name: tuple(array.shape) for name, array in record.items()}
    usable: dict[int, wire.Arrays] = {}
    common = dict(most_common(frozenset(layout.items()) for layout in layouts.values())) if layouts else {}
    for vertex in layouts:
        try:
            usable[vertex] = wire.decode_weights(records[vertex], common)
        except InputError as error:
            refused[vertex] = str(error)
    return usable, refused
