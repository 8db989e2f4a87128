"""Storage of a node's model and optimizer between two messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict

from flower_kd.clients.node import Node
from flower_kd.models import pruning
from flower_kd.models.card import Score
from flower_kd.protocol import Greeting
from flower_kd.wire import as_array

NodeFactory = Callable[[Context], Node]

MODEL = "flower-kd.model"
OPTIMIZER = "flower-kd.optimizer"
MEMORY = "flower-kd.memory"
GREETING = "flower-kd.greeting"
BEST = "flower-kd.best"
BEST_SCORE = "flower-kd.best-score"
NEXT_STEP = "flower-kd.next-step"

MODEL_PREFIX = "model."  # of the names of its tensors in a file


class LiveState(RecordDict):
    """A context's state with the node itself, for engines that run every node in one process."""

    node: Node | None = None


def fresh(context: Context, build_node: NodeFactory) -> Node:
    """Return a node in its initial state, discarding what an earlier run left in the context."""
    for key in (MODEL, OPTIMIZER, MEMORY, BEST, BEST_SCORE, NEXT_STEP):
        context.state.pop(key, None)
    if isinstance(context.state, LiveState):
        context.state.node = None
    node = build_node(context)
    save(context, node)
    return node


def remember_greeting(context: Context, greeting: Greeting) -> None:
    """Store the server's greeting; its round is the last one finished on this node."""
    context.state[GREETING] = greeting.to_record()


def greeting(context: Context, server_round: int | None = None) -> Greeting:
    """Return the stored greeting, after updating its round if one is given."""
    record = context.state.get(GREETING)
    if not isinstance(record, ConfigRecord):
        return Greeting()
    if server_round is not None:
        record["server-round"] = server_round
    return Greeting.from_record(record)


def next_step(context: Context) -> int | None:
    """Return the step of the run that follows the last one in the node's own folder; None before it has one there."""
    record = context.state.get(NEXT_STEP)
    return int(record["step"]) if isinstance(record, ConfigRecord) else None  # type: ignore[arg-type]


def remember_next_step(context: Context, step: int) -> None:
    """Store the step of the run that follows the last one in the node's own folder."""
    context.state[NEXT_STEP] = ConfigRecord({"step": step})


def best_score(context: Context) -> Score | None:
    """Return the score of the best model so far; None if none was kept."""
    record = context.state.get(BEST_SCORE)
    return Score(**record) if isinstance(record, ConfigRecord) else None  # type: ignore[arg-type]


def keep_best(context: Context, score: Score, weights: Mapping[str, torch.Tensor]) -> None:
    """Store copies of the weights of the best model so far."""
    context.state[BEST] = ArrayRecord(dict(weights))
    context.state[BEST_SCORE] = ConfigRecord(asdict(score))


def forget_best(context: Context) -> None:
    """Forget the best model so far."""
    for key in (BEST, BEST_SCORE):
        context.state.pop(key, None)


def restore_best(context: Context, node: Node) -> None:
    """Give a node the weights of the best model so far; if none was kept, it keeps its own."""
    record = context.state.get(BEST)
    if isinstance(record, ArrayRecord):
        node.model.load_state_dict(record.to_torch_state_dict())


def has_node(context: Context) -> bool:
    """Return whether the context contains a node from an earlier message."""
    return MODEL in context.state or (isinstance(context.state, LiveState) and context.state.node is not None)


def load(context: Context, build_node: NodeFactory) -> Node:
    """Return the node as the last message left it, or a fresh one if there was none."""
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
    _load_optimizer(node.optimizer, optimizer.to_torch_state_dict())
    memory = context.state.get(MEMORY)
    if isinstance(memory, ArrayRecord):
        node.memory = {name: array.numpy() for name, array in memory.items()}
    return node


def save(context: Context, node: Node) -> None:
    """Store the node for the next message."""
    if isinstance(context.state, LiveState):
        context.state.node = node
    else:
        _store(context.state, node)


def _store(records: RecordDict, node: Node) -> None:
    records[MODEL] = ArrayRecord(node.model.state_dict())
    records[OPTIMIZER] = _optimizer_record(node.optimizer)
    if node.memory:
        records[MEMORY] = ArrayRecord({name: as_array(array) for name, array in node.memory.items()})
    else:
        records.pop(MEMORY, None)


def to_records(context: Context) -> RecordDict:
    """Return the state as records, in which the node is stored as on engines that keep no live nodes."""
    records = RecordDict(dict(context.state.items()))
    if isinstance(context.state, LiveState) and context.state.node is not None:
        _store(records, context.state.node)
    return records


@contextmanager
def restored_on_error(context: Context, node: Node) -> Iterator[None]:
    """Restore a live node if the block fails, as on engines that store nodes as records."""
    if not isinstance(context.state, LiveState):
        yield
        return
    parameters, buffers = list(node.model.parameters()), list(node.model.buffers())
    # A single tensor of all parameters is faster, and this is done for each message.
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    statistics = [buffer.clone() for buffer in buffers]
    memory = deepcopy(node.optimizer.state_dict()) if node.optimizer.state else None
    remembered = node.memory
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
        node.memory = remembered
        node.optimizer.state.clear()
        if memory is not None:
            node.optimizer.load_state_dict(memory)
        raise


def to_tensors(node: Node) -> dict[str, torch.Tensor]:
    """Return copies of the tensors of a node's model, optimizer and memory, by name."""
    tensors = {f"{MODEL_PREFIX}{name}": value for name, value in pruning.to_file(node.model.state_dict()).items()}
    tensors |= {f"optimizer.{name}": value for name, value in _optimizer_tensors(node.optimizer).items()}
    tensors |= {f"memory.{name}": torch.from_numpy(array) for name, array in node.memory.items()}
    return copies(tensors)


def copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies of tensors as they can be written to a file: on the CPU, contiguous, sharing no memory."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


def from_tensors(node: Node, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore a node's model, optimizer and memory from the result of `to_tensors`."""
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "optimizer": {}, "memory": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    node.model.load_state_dict(pruning.from_file(parts["model"], node.model.state_dict()))
    _load_optimizer(node.optimizer, parts["optimizer"])
    node.memory = {name: tensor.numpy() for name, tensor in parts["memory"].items()}


def _optimizer_record(optimizer: torch.optim.Optimizer) -> ArrayRecord:
    return ArrayRecord({name: Array(value.cpu().numpy()) for name, value in _optimizer_tensors(optimizer).items()})


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Flatten the optimizer's state per parameter; its settings come from the node factory."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, memory in optimizer.state_dict()["state"].items()
        for name, value in memory.items()
        if value is not None
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", maxsplit=1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
