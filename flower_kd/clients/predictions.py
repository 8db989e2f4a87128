"""Predictions on reference rows: those that a node receives, as its teacher, and those that it sends, as logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from flower_kd import wire
from flower_kd.clients.adjustment import adjusted
from flower_kd.clients.memory import remember, remembered
from flower_kd.clients.node import Node
from flower_kd.clients.training import measure_of, predict
from flower_kd.protocol import LOGITS, TEACHER, TEACHER_WEIGHTS, Order, exchanged_rows
from flower_kd.teacher import Teacher

SENT = "sent"  # what a node remembers: the rows that it last sent, from which deltas are made


def teacher(content: RecordDict, order: Order, rows: int, classes: int) -> Teacher | None:
    """Return the teacher in a message, about a number of rows; None if there is none."""
    record = content.get(TEACHER)
    if not isinstance(record, ArrayRecord):
        return None
    weights = _weights(content)
    shape = (rows, classes) if weights is None else (len(weights), rows, classes)
    soft_labels = wire.get(order.wire, order.wire_coding).decode_teacher(record, shape).clamp_(0.0, 1.0)
    if measure_of(order.dissimilarity).of_distributions:  # others allow any teacher, such as D-Dist's z
        soft_labels /= soft_labels.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return Teacher(soft_labels, weights)


def reply(
    node: Node,
    order: Order,
    taught: Teacher | None,
    logits: Tensor | None,
    noised: Callable[[Tensor], Tensor],
) -> tuple[str, ArrayRecord]:
    """Return the name and the content of the record with the node's logits on the rows of the exchange.

    Parameters
    ----------
    node : Node
        After training.
    order : Order
        What it was asked for.
    taught : Teacher or None
        What it was trained on beside its labels.
    logits : Tensor or None
        [rows, classes], if training has them; otherwise they are computed.
    noised : callable (Tensor) -> Tensor
        Adds to the logits, before they are encoded, the noise that the order wants, if any.
    """
    reference = node.reference
    assert isinstance(reference, Tensor)
    rows = exchanged_rows(order.seed, order.exchange, len(reference), order.exchange_rows)
    if logits is None:
        logits = predict(node.model, reference[rows])
    return LOGITS, _encoded(node, order, noised(adjusted(logits, node, order, taught)), rows)


def _encoded(node: Node, order: Order, logits: Tensor, rows: np.ndarray) -> ArrayRecord:
    """Return logits [rows, classes] as the order wants them: if it can be, as what changed since the last message."""
    wire_format = wire.get(order.wire, order.wire_coding)
    if wire_format.coding != "delta":
        return wire_format.encode(logits)
    assert isinstance(node.reference, Tensor)
    last = wire.LastRows(wire_format, len(node.reference), node.classes)
    if kept := remembered(node, SENT):
        last.restore(**kept)
    record = last.encode(logits, rows, order.base)
    remember(node, SENT, {"words": last.words, "known": last.known})
    return record


def _weights(content: RecordDict) -> Tensor | None:
    """Return the weights of separate teachers, [teachers]; None if there is a single teacher."""
    record = content.get(TEACHER_WEIGHTS)
    return wire.decode(record) if isinstance(record, ArrayRecord) else None
