"""Nodes stop by their own validation losses, keep their best weights, and still answer."""

from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import CLASSES, FaultyGrid, blobs, build_blob_node, recorded_grid
from flwr.app import Context, Message

from flower_kd.clients import Node, make_client_app, state
from flower_kd.clients.training import evaluate
from flower_kd.errors import InputError
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import DSGD, DDist, NeighborKD, Silo
from flower_kd.strategies.early_stopping import EarlyStopping

ROUNDS = 12


def build_validated_node(context: Context) -> Node:
    node = build_blob_node(context)
    vertex = int(context.node_config["partition-id"])
    inputs, labels = blobs(3000 + vertex, 15)
    own = labels != vertex % CLASSES
    node.validation = [(inputs[own], labels[own])]
    return node


APP = make_client_app(build_validated_node)


def build_contradicted_node(context: Context) -> Node:
    """Return a node that gets worse on its validation samples the more it learns."""
    node = build_blob_node(context)
    inputs, labels = blobs(3000 + int(context.node_config["partition-id"]), 15)
    node.validation = [(inputs, (labels + 1) % CLASSES)]
    return node


def figures(strategy, grid, rounds: int = ROUNDS) -> tuple[dict, np.ndarray]:
    network = strategy.network(grid)
    strategy.start(network, num_rounds=rounds)
    values = {key: {k: v for k, v in m.values.items() if k != "seconds"} for key, m in network.metrics.items()}
    return values, network.early_stopping.stopped


def test_a_node_stops_after_so_many_evaluations_without_a_lower_loss() -> None:
    stopping = EarlyStopping(3, patience=2)
    assert stopping.observe(1, {0: 1.0, 1: 1.0, 2: 1.0}) == []
    assert stopping.observe(2, {0: 1.0, 1: 0.9}) == []  # equal is no improvement; node 2 was silent
    assert stopping.observe(3, {0: 1.1, 1: 1.0, 2: 2.0}) == [0]
    again = EarlyStopping(3, patience=2)
    again.load_state_dict({name: value.copy() for name, value in stopping.state_dict().items()} | {"up": np.zeros(3)})
    for each in (stopping, again):
        assert each.observe(5, {0: 0.1, 1: 1.0, 2: 2.0}) == [1, 2]  # a node that has stopped stays so
        assert each.stopped.tolist() == [3, 5, 5]
        assert each.everyone
    again.forget(1)
    assert again.stopped.tolist() == [3, 0, 5]
    assert not again.everyone


def test_each_phase_stops_by_itself() -> None:
    stopping = EarlyStopping(2, patience=1)
    assert [stopping.observe(n, {0: 1.0 + n, 1: -n}) for n in (1, 2)] == [[], [0]]
    stopping.begin_phase()
    again = EarlyStopping(2, patience=1)
    again.load_state_dict({name: value.copy() for name, value in stopping.state_dict().items()})
    for each in (stopping, again):
        assert each.stopped.tolist() == [0, 0]
        assert each.observe(3, {0: 9.0, 1: 9.0}) == []  # the first of this phase
        assert each.observe(4, {0: 9.0, 1: 8.0}) == [0]
        assert (each.stopped.tolist(), each.stopped_before.tolist()) == ([4, 0], [[2, 0]])


def test_without_patience_no_node_stops() -> None:
    stopping = EarlyStopping(1, patience=0)
    assert [stopping.observe(n, {0: 1.0}) for n in range(1, 9)] == [[]] * 8
    assert stopping.state_dict() == {}


@pytest.mark.parametrize("make", [Silo, NeighborKD, DDist])
def test_every_node_ends_with_its_best_weights_on_every_engine(make, ring: nx.Graph) -> None:
    grid = InProcessGrid(APP, 4, {})
    found, stopped = figures(make(ring, local_steps=5, patience=2), grid)
    recorded, same = figures(make(ring, local_steps=5, patience=2), recorded_grid(APP, 4))
    assert (found, stopped.tolist()) == (recorded, same.tolist())
    assert stopped.any()
    last = max(server_round for server_round, _ in found)
    for context in grid.contexts.values():
        vertex = int(context.node_config["partition-id"])
        node, score = context.state.node, state.best_score(context)
        losses = [found[n, vertex]["validation-loss"] for n in range(1, last + 1)]
        assert found[last, vertex]["validation-loss"] == score.loss == min(losses)
        best = build_validated_node(context)
        best.model.load_state_dict(context.state[state.BEST].to_torch_state_dict())
        for ours, theirs in zip(node.model.parameters(), best.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        assert found[last, vertex]["test-accuracy"] == evaluate(node.model, node.test)["accuracy"]


def test_a_node_that_stopped_takes_no_steps_but_still_answers(ring: nx.Graph) -> None:
    grid = InProcessGrid(APP, 4, {})
    strategy = NeighborKD(ring, local_steps=5, patience=1)
    network = strategy.network(grid)
    strategy.start(network, num_rounds=ROUNDS)
    stopped = network.early_stopping.stopped
    last = max(server_round for server_round, _ in network.metrics)
    vertex = int(stopped.argmin()) if stopped.all() else int(np.flatnonzero(stopped)[0])
    when = int(stopped[vertex])
    assert "train-loss" in network.metrics[when, vertex].values
    for server_round in range(when + 1, last + 1):
        assert "train-loss" not in network.metrics[server_round, vertex].values
        accuracy = network.metrics[server_round, vertex].values["test-accuracy"]
        assert accuracy == network.metrics[last, vertex].values["test-accuracy"]
    # It sends logits in each round but the last of the config, as all others do.
    assert network.traffic.messages.tolist() == [min(last, ROUNDS - 1)] * 4
    assert when < last
    neighbor = (vertex + 1) % 4
    if not stopped[neighbor]:
        assert network.metrics[last, neighbor].values["kd-loss"] > 0


def test_the_run_ends_when_all_have_stopped(ring: nx.Graph) -> None:
    grid = InProcessGrid(make_client_app(build_contradicted_node), 4, {})
    found, stopped = figures(NeighborKD(ring, local_steps=20, patience=2), grid, rounds=20)
    assert stopped.all()
    assert max(server_round for server_round, _ in found) == stopped.max() < 20


def test_a_silent_node_keeps_its_patience(ring: nx.Graph) -> None:
    plain, _ = figures(Silo(ring, local_steps=20), InProcessGrid(APP, 4, {}), rounds=30)
    losses = [plain[n, 0]["validation-loss"] for n in range(1, 31)]
    first_worse = next(n for n in range(2, 31) if losses[n - 1] >= min(losses[: n - 1]))
    grid = FaultyGrid(APP, 4, {})
    asked: Iterator[int] = iter(range(1, 100))

    def lose_that_evaluation(vertex: int, reply: Message) -> Message | None:
        if vertex == 0 and reply.metadata.message_type == "evaluate":
            return None  # it fails again when it is asked again
        if vertex == 0 and "evaluation" in reply.content and next(asked) == first_worse:
            del reply.content["evaluation"]
        return reply

    grid.interfere = lose_that_evaluation
    _, with_loss = figures(Silo(ring, local_steps=20, patience=1), grid, rounds=30)
    _, without = figures(Silo(ring, local_steps=20, patience=1), InProcessGrid(APP, 4, {}), rounds=30)
    assert without[0] == first_worse
    assert with_loss[0] != first_worse


def test_a_node_that_lost_its_weights_trains_again(ring: nx.Graph) -> None:
    strategy = NeighborKD(ring, local_steps=5, patience=1)
    network = strategy.network(InProcessGrid(APP, 4, {}))
    strategy.start(network, num_rounds=ROUNDS)
    vertex = int(np.flatnonzero(network.early_stopping.stopped)[0])
    network.on_return(vertex, network.hellos[vertex])
    assert network.hellos[vertex].fresh
    assert network.early_stopping.stopped[vertex] == 0


def test_who_cannot_stop() -> None:
    ring = nx.cycle_graph(4)
    with pytest.raises(InputError, match=r"patience = 3: DSGD averages weights, so that no node can stop"):
        DSGD(ring, patience=3)
    without = InProcessGrid(make_client_app(build_blob_node), 4, {})
    with pytest.raises(InputError, match="patience = 2 needs validation data, which this node does not have"):
        Silo(ring, local_steps=1, patience=2).start(without, num_rounds=1)
