"""The head that an order trains, and the teachers of the second head, which a node keeps for the rest of the run."""

from __future__ import annotations

import torch

from flower_kd.clients.memory import remember, remembered
from flower_kd.clients.node import Node
from flower_kd.errors import InputError
from flower_kd.models.two_heads import TwoHeads
from flower_kd.protocol import Order
from flower_kd.teacher import Teacher

TEACHER = "teacher"  # what a node remembers


def check_two_heads(node: Node) -> None:
    """Raise InputError unless a node's model has two heads."""
    if not isinstance(node.model, TwoHeads):
        raise InputError(
            f"the strategy trains networks with two heads, but the model is of type {type(node.model).__name__}: "
            f"wrap it, flower_kd.TwoHeads(model, classes={node.classes})"
        )


def begins_head_2(node: Node, order: Order) -> bool:
    """Return whether head 2 begins with an order; raises InputError if the node cannot train the order's head."""
    if not order.head:
        return False
    check_two_heads(node)
    model = node.model
    assert isinstance(model, TwoHeads)
    begun = bool(model.distilling)
    if begun and order.head == 1:
        raise InputError("head 1 cannot be trained any more: its network is the teacher of others")
    return order.head == 2 and not begun


def set_head(node: Node, order: Order) -> None:
    """Prepare the head that an order trains; the second begins where the first has ended."""
    if not order.head:
        return
    begins = begins_head_2(node, order)
    model = node.model
    assert isinstance(model, TwoHeads)
    if begins:
        model.begin_distillation()
        for parameter in model.local.parameters():  # what the optimizer knows of them is not needed any more
            node.optimizer.state.pop(parameter, None)
    model.distilled.freeze_backbone(order.frozen_backbone)


def kept_teacher(node: Node, received: Teacher | None) -> Teacher | None:
    """Return the teacher about reference rows that a node received in this message, or in an earlier one."""
    if received is not None:
        arrays = {"soft-labels": received.soft_labels.numpy()}
        if received.weights is not None:
            arrays["weights"] = received.weights.numpy()
        remember(node, TEACHER, arrays)
        return received
    kept = remembered(node, TEACHER)
    if not kept:
        return None
    weights = kept.get("weights")
    return Teacher(torch.from_numpy(kept["soft-labels"]), None if weights is None else torch.from_numpy(weights))
