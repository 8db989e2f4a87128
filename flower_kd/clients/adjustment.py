"""Predictions as if the node had seen all classes equally often (Menon et al., ICLR 2021: logit adjustment)."""

from __future__ import annotations

import torch
from torch import Tensor

from flower_kd.clients.class_counts import remembered_class_counts
from flower_kd.clients.node import Node
from flower_kd.protocol import Order
from flower_kd.teacher import Teacher


def adjusted(logits: Tensor, node: Node, order: Order, teacher: Teacher | None) -> Tensor:
    """Return logits [rows, classes] less `logit_adjustment` times the logarithm of each class's share in training.

    A node with few samples of a class rarely predicts it, whatever it has learned of it; so do its neighbors when they
    have learned from such predictions.

    Raises
    ------
    InputError
        If the node's labels cannot be counted.
    """
    if not order.logit_adjustment:
        return logits
    return logits - order.logit_adjustment * class_shares(node, order, teacher).log().to(logits.device)


def class_shares(node: Node, order: Order, teacher: Teacher | None) -> Tensor:
    """Return the share of each class in what a node was just trained on, above 0, [classes].

    Its own labels and the teacher's soft labels count by their weights in the loss; each class has one more of both.
    """
    own = _shares(torch.from_numpy(remembered_class_counts(node)).float())
    if teacher is None or not order.kd_weight:
        return own
    taught = _shares(teacher.soft_labels.cpu().clamp_min(0).flatten(0, -2).sum(dim=0))
    return own.lerp(taught, order.kd_weight / (order.label_weight + order.kd_weight))


def _shares(counts: Tensor) -> Tensor:
    """Return shares of counts [classes], each above 0 as one is added to it."""
    return (counts + 1) / (counts + 1).sum()
