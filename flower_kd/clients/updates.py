"""Weights that a node receives and sends: as they are, or as compressed updates of a base that both sides have.

Two algorithms share this. In both, a node sends C(d) for a difference d, and remembers the residual d - C(d):

- error feedback (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019): the base is what the node received,
  and the residual is part of the next difference;
- CHOCO-SGD (Koloskova, Stich and Jaggi, ICML 2019), if the order has a moving base: the base is the estimate of the
  node's weights that its neighbors have, every C(d) moves it, and the residual stays in the node's weights.

Of pruned weights, only the kept ones travel (`flower_kd.models.pruning`): nodes whose weights are averaged all keep the
same ones.
"""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord
from torch import nn

from flower_kd import wire
from flower_kd.clients.memory import remember, remembered
from flower_kd.clients.node import Node
from flower_kd.models import pruning
from flower_kd.protocol import ARRAYS, UPDATE, Order
from flower_kd.wire import compression

BASE, RESIDUAL = "base", "residual"  # what a node remembers


def load(node: Node, record: ArrayRecord) -> None:
    """Load weights; with a moving base, they are those of the base, and the residual is added.

    The result is the same however often the same weights are received.
    """
    state = node.model.state_dict()
    weights = wire.decode_weights(record, wire.layout_of(pruning.packed(state)))
    if remembered(node, BASE):
        weights = compression.moved(weights, remembered(node, RESIDUAL))
    received = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    node.model.load_state_dict(pruning.unpacked(received, state))


def base_of(node: Node, order: Order) -> wire.Arrays | None:
    """Return the base of the reply's update, before training; None if all weights must be sent."""
    if order.compression == compression.NONE:
        return None
    base = (order.moving_base and remembered(node, BASE)) or _copy(_weights(node))
    return base if wire.digest(base) == order.base else None


def reply(node: Node, order: Order, base: wire.Arrays | None) -> tuple[str, ArrayRecord]:
    """Return the name and the content of the record with the node's weights, or with the update of its base."""
    if order.compression == compression.NONE:
        return ARRAYS, encoded(node.model)
    weights = _weights(node)
    if base is None:
        remember(node, BASE, _copy(weights) if order.moving_base else {})
        remember(node, RESIDUAL, {})
        return ARRAYS, encoded(node.model)
    trained = {name for name in _trained_names(node) if compression.is_compressed(weights[name])}
    update = compression.difference(weights, base, trained)
    buffers = {name: weight for name, weight in weights.items() if name not in trained}
    if not order.moving_base:
        update = compression.moved(update, remembered(node, RESIDUAL))
    record, sent = compression.get(order.compression).compress(update, buffers)
    remember(node, BASE, compression.moved(base, sent) | _copy(buffers) if order.moving_base else {})
    remember(node, RESIDUAL, compression.difference(update, sent, trained))
    return UPDATE, record


def encoded(model: nn.Module) -> ArrayRecord:
    """Return a model's weights as they travel."""
    return wire.encode_weights(pruning.packed(model.state_dict()))


def _trained_names(node: Node) -> list[str]:
    state = node.model.state_dict()
    return [pruning.sent_name(name, state) for name, _ in node.model.named_parameters()]


def _weights(node: Node) -> wire.Arrays:
    """Return the node's weights as arrays, which share its memory on a CPU unless they are pruned."""
    packed = pruning.packed(node.model.state_dict())
    return {name: weight.detach().cpu().numpy() for name, weight in packed.items()}


def _copy(weights: wire.Arrays) -> wire.Arrays:
    return {name: weight.copy() for name, weight in weights.items()}
