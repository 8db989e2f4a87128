"""Where a node's model and optimizer live between two messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, RecordDict

from flower_kd.clients.node import Node

NodeFactory = Callable[[Context], Node]

MODEL = "flower-kd.model"
OPTIMIZER = "flower-kd.optimizer"


class LiveState(RecordDict):
    """A context's state that holds the node itself: for engines that run every node in one process."""

    node: Node | None = None


def fresh(context: Context, build_node: NodeFactory) -> Node:
    """Return a node as it is before the first step, and forget what an earlier run left in the context."""
    for key in (MODEL, OPTIMIZER):
        context.state.pop(key, None)
    if isinstance(context.state, LiveState):
        context.state.node = None
    node = build_node(context)
    save(context, node)
    return node


def remembered(context: Context) -> bool:
    """Return whether the context holds a node as an earlier message left it."""
    return MODEL in context.state or (isinstance(context.state, LiveState) and context.state.node is not None)


def load(context: Context, build_node: NodeFactory) -> Node:
    """Return the node as the last message left it, or a fresh one where there was none."""
    if isinstance(context.state, LiveState) and context.state.node is not None:
        return context.state.node
    if MODEL not in context.state:
        return fresh(context, build_node)
    node = build_node(context)
    model = context.state[MODEL]
    assert isinstance(model, ArrayRecord)
    node.model.load_state_dict(model.to_torch_state_dict())
    optimizer = context.state[OPTIMIZER]
    assert isinstance(optimizer, ArrayRecord)
    _load_optimizer(node.optimizer, optimizer)
    return node


def save(context: Context, node: Node) -> None:
    """Keep the node for the next message."""
    if isinstance(context.state, LiveState):
        context.state.node = node
        return
    context.state[MODEL] = ArrayRecord(node.model.state_dict())
    context.state[OPTIMIZER] = _optimizer_record(node.optimizer)


@contextmanager
def kept_on_error(context: Context, node: Node) -> Iterator[None]:
    """Take a live node back to where it was if the block fails, as an engine does that keeps records."""
    if not isinstance(context.state, LiveState):
        yield
        return
    parameters, buffers = list(node.model.parameters()), list(node.model.buffers())
    # One tensor of all parameters: this is done for each message.
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    statistics = [buffer.clone() for buffer in buffers]
    memory = deepcopy(node.optimizer.state_dict()) if node.optimizer.state else None
    try:
        yield
    except Exception:
        node.optimizer.zero_grad()
        node.model.zero_grad()  # the optimizer need not have all parameters
        with torch.no_grad():
            for parameter, part in zip(parameters, weights.split([p.numel() for p in parameters]), strict=True):
                parameter.copy_(part.view_as(parameter))
            for buffer, value in zip(buffers, statistics, strict=True):
                buffer.copy_(value)
        node.optimizer.state.clear()
        if memory is not None:
            node.optimizer.load_state_dict(memory)
        raise


def _optimizer_record(optimizer: torch.optim.Optimizer) -> ArrayRecord:
    """Flatten what the optimizer remembers per parameter; its settings come from the node factory."""
    arrays = {
        f"{index}.{name}": Array(np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value))
        for index, memory in optimizer.state_dict()["state"].items()
        for name, value in memory.items()
        if value is not None
    }
    return ArrayRecord(arrays)


def _load_optimizer(optimizer: torch.optim.Optimizer, record: ArrayRecord) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, array in record.items():
        index, name = key.split(".", maxsplit=1)
        state.setdefault(int(index), {})[name] = torch.from_numpy(array.numpy())
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
