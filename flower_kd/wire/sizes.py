"""Sizes of messages in bytes, counted without serializing each of them."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from typing import Any, cast

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

# Message ids of 64 hex digits, node, run and task ids of 64 bits, times as doubles; keys and lengths.
METADATA_BYTES = 2 * (64 + 3) + 5 * (10 + 1) + 2 * (8 + 1) + len("evaluate") + 2

# Messages with the same layout have the same size, so that thousands of messages are serialized only once.
_sizes: dict[Hashable, int] = {}
_MOST_SIZES = 4096  # coded arrays have many different lengths


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
        if len(_sizes) >= _MOST_SIZES:
            _sizes.clear()
        size = _sizes[layout] = int(recorddict_to_proto(content).ByteSize())
    return METADATA_BYTES + size


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
