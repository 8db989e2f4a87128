"""Early stopping in both phases of the two-head client: head 1 ends with its best weights, and so does head 2."""

from functools import partial

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import CLASSES, FEATURES, FaultyGrid, blobs, build_blob_node, recorded_grid
from flwr.app import ArrayRecord, Context, Message
from torch import nn

from flower_kd import TwoHeads, wire
from flower_kd.clients import Node, make_client_app, state
from flower_kd.clients.training import evaluate, predict
from flower_kd.errors import InputError
from flower_kd.protocol import ARRAYS, LOGITS
from flower_kd.seeding import torch_seeded
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import MultiHead, Network

HEAD_1_ROUNDS, ROUNDS = 10, 20


def build(context: Context, *, contradicted: bool = False) -> Node:
    """Return a node with two heads; a contradicted one gets worse on its validation data the more it learns.

    So do nodes 0 and 1, whose validation data have a class that they are not trained on.
    """
    node, vertex = build_blob_node(context), int(context.node_config["partition-id"])
    inputs, labels = blobs(3000 + vertex, 15)
    if contradicted:
        labels = (labels + 1) % CLASSES
    elif vertex == 2:
        inputs, labels = inputs[labels != vertex], labels[labels != vertex]
    with torch_seeded(vertex):
        backbone = [nn.Linear(FEATURES, 8 + vertex), nn.BatchNorm1d(8 + vertex), nn.ReLU()]
        model = TwoHeads(nn.Sequential(*backbone, nn.Linear(8 + vertex, CLASSES)), classes=CLASSES)
    return Node(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        node.private,
        node.reference,
        node.test,
        CLASSES,
        name=f"width-{vertex}",
        validation=[(inputs, labels)],
        build_model=lambda name: network(int(name.removeprefix("width-"))),
    )


def network(vertex: int) -> nn.Module:
    backbone = [nn.Linear(FEATURES, 8 + vertex), nn.BatchNorm1d(8 + vertex), nn.ReLU()]
    return nn.Sequential(*backbone, nn.Linear(8 + vertex, CLASSES))


APP = make_client_app(build)


def multi_head(teachers: str, patience: int = 3, **settings: int) -> MultiHead:
    return MultiHead(
        nx.cycle_graph(3),
        teachers=teachers,
        local_rounds=HEAD_1_ROUNDS,
        local_steps=5,
        reference_batch=0,
        patience=patience,
        **settings,
    )


def run(strategy: MultiHead, grid: InProcessGrid) -> Network:
    found = strategy.network(grid)
    strategy.start(found, num_rounds=ROUNDS)
    return found


def series(found: Network, vertex: int, name: str = "validation-loss") -> dict[int, float]:
    return {
        number: metrics.values[name]
        for (number, of), metrics in sorted(found.metrics.items())
        if of == vertex and name in metrics.values
    }


@pytest.mark.parametrize("teachers", ["reference", "private"])
def test_each_head_ends_with_its_best_weights_on_every_engine(teachers: str) -> None:
    grid, sent = FaultyGrid(APP, 3, {}), {}

    def watch(vertex: int, reply: Message) -> Message:
        for name in (LOGITS, ARRAYS):
            if name in reply.content:
                sent[vertex] = reply.content[name]
        return reply

    grid.interfere = watch
    found = run(multi_head(teachers), grid)
    again = run(multi_head(teachers), recorded_grid(APP, 3))
    assert [series(found, vertex) for vertex in range(3)] == [series(again, vertex) for vertex in range(3)]
    assert np.flatnonzero(found.early_stopping.stopped_before[0]).tolist() == [0, 1]
    assert found.early_stopping.stopped.any()
    went_on = run(multi_head(teachers, patience=0), InProcessGrid(APP, 3, {}))
    for context in grid.contexts.values():
        vertex = int(context.node_config["partition-id"])
        node, losses = context.state.node, series(found, vertex)
        of_head_1 = [loss for number, loss in losses.items() if number <= HEAD_1_ROUNDS]
        of_head_2 = [loss for number, loss in losses.items() if number > HEAD_1_ROUNDS]
        assert evaluate(node.model.local, node.validation)["loss"] == min(of_head_1) == losses[HEAD_1_ROUNDS]
        assert evaluate(node.model, node.validation)["loss"] == min(of_head_2) == losses[max(losses)]
        assert min(of_head_1) < series(went_on, vertex)[HEAD_1_ROUNDS]  # its last weights are not its best
        if teachers == "private":
            own = {name: torch.from_numpy(wire.read(name, array)) for name, array in sent[vertex].items()}
            torch.testing.assert_close(own, dict(node.model.local.state_dict()), rtol=0, atol=0)
        else:
            logits = wire.decode(sent[vertex], (len(node.reference), CLASSES))
            torch.testing.assert_close(logits, predict(node.model.local, node.reference))


def test_head_1_waits_and_head_2_trains() -> None:
    found = run(multi_head("private"), InProcessGrid(APP, 3, {}))
    stopped = found.early_stopping.stopped_before[0]
    vertex = int(np.flatnonzero((stopped > 0) & (stopped < HEAD_1_ROUNDS))[0])
    trained = [number for number in series(found, vertex, "train-loss") if number <= HEAD_1_ROUNDS + 1]
    assert trained == [*range(1, stopped[vertex] + 1), HEAD_1_ROUNDS + 1]


@pytest.mark.parametrize("teachers", ["reference", "private"])
def test_a_node_that_misses_the_end_of_head_1_begins_head_2_from_its_best(teachers: str) -> None:
    class Deaf(FaultyGrid):
        """Node 0 gets no messages in the last rounds of head 1."""

        def stream(self, messages):
            def heard():
                for message in messages:
                    server_round = message.content["config"].get("server-round", 0)
                    last = HEAD_1_ROUNDS - 1 <= server_round <= HEAD_1_ROUNDS
                    if not (self._vertex_of[message.metadata.dst_node_id] == 0 and last):
                        yield message

            yield from super().stream(heard())

    grid = Deaf(APP, 3, {})
    found = run(multi_head(teachers, patience=9), grid)
    losses = [loss for number, loss in series(found, 0).items() if number <= HEAD_1_ROUNDS]
    assert len(losses) == HEAD_1_ROUNDS - 2
    assert losses[-1] > min(losses)
    node = next(context.state.node for node, context in grid.contexts.items() if grid._vertex_of[node] == 0)
    assert evaluate(node.model.local, node.validation)["loss"] == min(losses)


@pytest.mark.parametrize("teachers", ["reference", "private"])
def test_rounds_in_which_no_node_trains_are_left_out(teachers: str) -> None:
    grid = InProcessGrid(make_client_app(partial(build, contradicted=True)), 3, {})
    found = run(multi_head(teachers), grid)
    stopped = found.early_stopping.stopped_before[0]
    assert stopped.all()
    rounds = sorted({number for number, _ in found.metrics})
    end = int(found.early_stopping.stopped.max())
    assert rounds == [*range(1, stopped.max() + 1), *range(HEAD_1_ROUNDS, end + 1)]
    assert stopped.max() < HEAD_1_ROUNDS - 1
    assert end < ROUNDS  # all have stopped once more
    assert found.traffic.messages.tolist() == [1, 1, 1]
    for context in grid.contexts.values():
        best = state.best_score(context)
        assert best is not None
        assert HEAD_1_ROUNDS < best.round <= end


def test_without_patience_the_last_head_1_counts() -> None:
    found = run(multi_head("reference", patience=0), InProcessGrid(APP, 3, {}))
    assert not found.early_stopping.stopped_before.any()
    assert all(len(series(found, vertex, "train-loss")) == ROUNDS for vertex in range(3))


def test_without_validation_data_patience_is_refused() -> None:
    def without(context: Context) -> Node:
        node = build(context)
        node.validation = None
        return node

    with pytest.raises(InputError, match="patience = 3 needs validation data, which this node does not have"):
        multi_head("private").start(InProcessGrid(make_client_app(without), 3, {}), ArrayRecord(), num_rounds=ROUNDS)
