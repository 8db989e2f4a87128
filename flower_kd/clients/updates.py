"""Weights that a node receives and sends: as they are, or as compressed updates of a base that both sides have.

Two algorithms share this. In both, a node sends C(d) for a difference d, and remembers the residual d - C(d):

- error feedback (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019): the base is what the node received,
  and the residual is part of the next difference;
- CHOCO-SGD (Koloskova, Stich and Jaggi, ICML 2019), if the order has a moving base: the base is the estimate of the
  node's weights that its neighbors have, every C(d) moves it, and the residual stays in the node's weights.
"""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord

from flower_kd import wire
from flower_kd.clients.memory import remember, remembered
from flower_kd.clients.node import Node
from flower_kd.protocol import ARRAYS, UPDATE, Order
from flower_kd.wire import compression

BASE, RESIDUAL = "base", "residual"  # what a node remembers


def load(node: Node, record: ArrayRecord) -> None:
    """Load weights; with a moving base, they are those of the base, and the residual is added.

    The result is the same however often the same weights are received.
    """
    weights = wire.decode_weights(record, wire.layout_of(node.model.state_dict()))
    if remembered(node, BASE):
        weights = compression.moved(weights, remembered(node, RESIDUAL))
    node.model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})


def base_of(node: Node, order: Order) -> wire.Arrays | None:
    """Return the base of the reply's update, before training; None if all weights must be sent."""
    if order.compression == compression.NONE:
        return None
    base = (order.moving_base and remembered(node, BASE)) or _copy(_weights(node))
    return base if wire.digest(base) == order.base else None


def reply(node: Node, order: Order, base: wire.Arrays | None) -> tuple[str, ArrayRecord]:
    """Return the name and the content of the record with the node's weights, or with the update of its base."""
    if order.compression == compression.NONE:
        return ARRAYS, wire.encode_weights(node.model.state_dict())
    weights = _weights(node)
    if base is None:
        remember(node, BASE, _copy(weights) if order.moving_base else {})
        remember(node, RESIDUAL, {})
        return ARRAYS, wire.encode_weights(node.model.state_dict())
    trained = {name for name, _ in node.model.named_parameters() if compression.is_compressed(weights[name])}
    update = compression.difference(weights, base, trained)
    buffers = {name: weight for name, weight in weights.items() if name not in trained}
    if not order.moving_base:
        update = compression.moved(update, remembered(node, RESIDUAL))
    record, sent = compression.get(order.compression).compress(update, buffers)
    remember(node, BASE, compression.moved(base, sent) | _copy(buffers) if order.moving_base else {})
    remember(node, RESIDUAL, compression.difference(update, sent, trained))
    return UPDATE, record


def _weights(node: Node) -> wire.Arrays:
    """Return the node's weights as arrays, which share its memory on a CPU."""
    return {name: weight.detach().cpu().numpy() for name, weight in node.model.state_dict().items()}


def _copy(weights: wire.Arrays) -> wire.Arrays:
    return {name: weight.copy() for name, weight in weights.items()}
