"""Properties of every strategy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import networkx as nx
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.serverapp.strategy import Strategy

from flower_kd import quiet_log, strategies
from flower_kd.clients import Node, ShuffledBatches, make_client_app
from flower_kd.failures import describe
from flower_kd.models import TwoHeads
from flower_kd.parts import signatures
from flower_kd.runs import checkpoint
from flower_kd.runs.checkpoint import Checkpoint
from flower_kd.seeding import derive, torch_seeded
from flower_kd.sim import InProcessGrid
from flower_kd.testing.attempts import attempt

_ROUNDS = 3
_CLASSES, _FEATURES = 3, 4
_SETTINGS = {
    "seed": 0,
    "local_steps": 4,
    "exchange_every": 2,
    "evaluate_every": 1,
    "reference_batch": 8,
    "exchange_rows": 0,
}

Figures = dict[tuple[int, int], dict[str, float]]


def check_strategy(part: str | type[Strategy]) -> None:
    """Run a strategy over eight tiny nodes on a ring, in this process.

    Parameters
    ----------
    part : str or class
        As in a run config, or the class.

    Raises
    ------
    AssertionError
        If one of its methods fails, a node has no metrics in a round, two runs differ, a run that is resumed from what
        `state_dict` returned, saved in a file, differs from an uninterrupted one, a node that fails ends the run, or,
        unless the strategy sends to a server, what a node sends arrives at nodes further away than there were
        exchanges.
    """
    # A run ends with the method that fails, its exception and its place in one sentence.
    with quiet_log.only_errors(), attempt("a run"):
        _check(part)


def _check(part: str | type[Strategy]) -> None:
    figures = _run(part, _ROUNDS)
    for server_round in range(1, _ROUNDS + 1):
        for vertex in range(_NODES):
            assert (server_round, vertex) in figures, f"node {vertex} has no metrics in round {server_round}"
            loss = figures[server_round, vertex].get("train-loss", math.nan)
            assert math.isfinite(loss), f"node {vertex} reports no training loss in round {server_round}"
    assert _run(part, _ROUNDS) == figures, "two runs with the same seed differ"
    assert _resumed(part) == figures, "a run resumed after round 1 differs: state_dict() lacks something"
    _check_failing_node(part)
    if strategies.sends_to(_class(part)) != "server":
        _check_reach(part)


_NODES = 8


def _class(part: str | type[Strategy]) -> type[Strategy]:
    return strategies.STRATEGIES.get(part) if isinstance(part, str) else part


def _strategy(part: str | type[Strategy], num_nodes: int = _NODES) -> Any:
    graph = nx.cycle_graph(num_nodes)
    if isinstance(part, str):
        return strategies.build(part, graph, _SETTINGS)
    own = {name: value for name, value in _SETTINGS.items() if name in signatures.settings_of(part)}
    return part(graph, **own)  # type: ignore[call-arg]


class _Grid(InProcessGrid):
    """A grid in which the answers of some nodes are lost."""

    lost: Callable[[int, Message], bool] = staticmethod(lambda vertex, message: False)

    def answer(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        for message, reply in super().answer(messages):
            if not self.lost(self._vertex_of[message.metadata.dst_node_id], message):
                yield message, reply


def _grid(part: str | type[Strategy], odd: int = -1) -> _Grid:
    """Return a new network of nodes for a strategy; the node at vertex `odd` has other private data."""
    two_heads = getattr(_class(part), "two_heads", False)

    def build(context: Context) -> Node:
        vertex = int(context.node_config["partition-id"])
        with torch_seeded(0):
            model: torch.nn.Module = torch.nn.Linear(_FEATURES, _CLASSES)
            if two_heads:
                model = TwoHeads(model, classes=_CLASSES)
        data = {name: _samples(derive(0, name, 0)) for name in ("reference", "test")}
        inputs, labels = _samples(derive(0, "private", vertex + (100 if vertex == odd else 0)))
        return Node(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            private=ShuffledBatches(inputs, labels, batch_size=8, seed=0, vertex=vertex),
            reference=data["reference"][0],
            test=[data["test"]],
            classes=_CLASSES,
        )

    return _Grid(make_client_app(build), _NODES, {})


def _samples(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed % 2**63)
    inputs = torch.randn(24, _FEATURES, generator=generator)
    return inputs, inputs[:, :_CLASSES].argmax(-1)


def _run(part: str | type[Strategy], rounds: int, grid: _Grid | None = None) -> Figures:
    strategy = _strategy(part)
    network = strategy.network(grid or _grid(part))
    strategy.start(network, _weights(strategy), num_rounds=rounds)
    return _figures(network)


def _weights(strategy: Any) -> ArrayRecord:
    if not getattr(strategy, "same_model", False):
        return ArrayRecord()
    with torch_seeded(0):
        return ArrayRecord(torch.nn.Linear(_FEATURES, _CLASSES).state_dict())


def _figures(network: Any) -> Figures:
    return {
        key: {name: value for name, value in metrics.values.items() if name != "seconds"}
        for key, metrics in network.metrics.items()
    }


class _StopError(Exception):
    """Ends a run after a round."""


def _resumed(part: str | type[Strategy]) -> Figures:
    """Return the figures of a run that another process continues after round 1."""
    grid, first = _grid(part), _strategy(part)
    network = first.network(grid)
    content = b""

    def stop(server_round: int) -> None:
        nonlocal content
        state = first.saved_state()
        content = Checkpoint("", "", server_round, {}, {}, [], state, network.state_dict()).to_bytes()
        raise _StopError

    first.on_round = stop
    with suppress(_StopError):
        first.start(network, _weights(first), num_rounds=_ROUNDS)
    saved = _read(content)
    second = _strategy(part)
    continued = second.network(grid)
    continued.greeting = replace(continued.greeting, fresh=False, stage="resumed", server_round=1)
    continued.on_join = lambda: continued.load_state_dict(saved.network)
    second.resume_after(1, saved.strategy)
    second.start(continued, _weights(second), num_rounds=_ROUNDS)
    return _figures(network) | _figures(continued)


def _read(content: bytes) -> Checkpoint:
    """Return a checkpoint as a resumed run finds it."""
    with TemporaryDirectory() as folder:
        (Path(folder) / checkpoint.SERVER_FILE).write_bytes(content)
        found = checkpoint.read(Path(folder))
    assert found is not None, "no round was finished"
    return found


def _check_failing_node(part: str | type[Strategy]) -> None:
    grid = _grid(part)
    grid.lost = lambda vertex, message: vertex == 2 and message.metadata.message_type == "train"
    try:
        figures = _run(part, _ROUNDS, grid)
    except Exception as error:
        raise AssertionError(f"a silent node ends the run: {describe(error)}") from error
    assert (_ROUNDS, 3) in figures, "a silent node keeps others from training"


def _check_reach(part: str | type[Strategy]) -> None:
    """Compare two networks that differ in the private data of one node."""
    odd, rounds = 4, int(getattr(_class(part), "fewest_rounds", 1))
    exchanges = rounds * (_SETTINGS["local_steps"] // _SETTINGS["exchange_every"])
    strategy = _strategy(part)
    network = strategy.network(_grid(part))
    strategy.start(network, _weights(strategy), num_rounds=rounds)
    plain, changed = _figures(network), _run(part, rounds, _grid(part, odd))
    # Nothing gets further than there were messages.
    exchanges = min(exchanges, int(network.traffic.messages.max()))
    for vertex in range(_NODES):
        hops = min(abs(vertex - odd), _NODES - abs(vertex - odd))
        if hops > exchanges:
            same = plain[rounds, vertex] == changed[rounds, vertex]
            assert same, f"node {vertex} depends on node {odd}, {hops} hops away, after {exchanges} exchanges"
    assert plain[rounds, odd] != changed[rounds, odd]
