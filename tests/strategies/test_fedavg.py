"""FedAvg's average is robust to whatever one node sends."""

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import FaultyGrid, build_same_model_node
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from flower_kd.clients import Node, make_client_app
from flower_kd.strategies import DSGD, FedAvg, Network
from flower_kd.strategies.fedavg import LARGEST_SHARE
from flower_kd.strategies.weights import usable_weights

START = {"weight": torch.zeros(3, 6), "bias": torch.zeros(3)}


def run(
    interfere, cls=FedAvg, build=build_same_model_node, start=START, graph=None, rounds=2
) -> tuple[Network, ArrayRecord]:
    """Return the results of a run in which node 1's train replies are changed."""
    graph = graph or nx.cycle_graph(4)
    grid = FaultyGrid(make_client_app(build), graph.number_of_nodes(), {})

    def changed(vertex: int, reply: Message) -> Message:
        if vertex == 1 and reply.metadata.message_type == "train":
            interfere(reply.content)
        return reply

    grid.interfere = changed
    strategy = cls(graph, local_steps=2)
    network = strategy.network(grid)
    result = strategy.start(network, ArrayRecord(dict(start)), num_rounds=rounds)
    return network, result.arrays


def test_an_extra_metric_is_kept_and_changes_nothing() -> None:
    network, arrays = run(lambda content: content["metrics"].update({"extra": 1.5}))
    _, plain = run(lambda content: None)
    assert network.participation[1].taken == 2
    assert network.metrics[2, 1].values["extra"] == 1.5
    assert all(np.array_equal(arrays[name].numpy(), plain[name].numpy()) for name in START)


@pytest.mark.parametrize("cls", [FedAvg, DSGD])
@pytest.mark.parametrize(
    ("interfere", "words"),
    [
        (lambda c: c.update({"more": MetricRecord({"a": 1})}), "its reply has a record 'more' that was not requested"),
        (lambda c: c.update({"logits": ArrayRecord()}), "its reply has a record 'logits' that was not requested"),
        (lambda c: c["arrays"].update({"new": c["arrays"].pop("bias")}), "weights of another model: 'bias' is missing"),
        (
            lambda c: c["arrays"].update({"bias": Array(np.full(3, 1e300))}),
            "'bias' is 'float64' of shape",
        ),
        (
            lambda c: c["arrays"].update({"bias": Array(np.full(3, 3e38, np.float32))}),
            "weights of up to 3e+38",
        ),
        (lambda c: c["metrics"].update({"num-examples": -50}), "'num-examples' = -50 in its report should be greater"),
    ],
)
def test_what_does_not_fit_is_left_out(cls, interfere, words: str) -> None:
    network, _ = run(interfere, cls)
    assert network.participation[1].taken == 0
    assert all(words in why for why in network.participation[1].reasons)
    assert all(network.participation[vertex].taken == 2 for vertex in (0, 2, 3))
    assert all(0 <= network.metrics[2, vertex].values["test-accuracy"] <= 1 for vertex in range(4))


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 5])
def test_a_node_cannot_dominate_the_average(num_nodes: int) -> None:
    """Node 1 claims a billion samples, and sends ones."""

    def lie(content) -> None:
        content["metrics"]["num-examples"] = 10**9
        content["arrays"] = ArrayRecord({k: Array(np.ones(tuple(v.shape), np.float32)) for k, v in START.items()})

    graph = nx.complete_graph(num_nodes)
    network, arrays = run(lie, graph=graph, rounds=1)
    # The others hold about 40 samples each: it weighs as much as three of them.
    share = LARGEST_SHARE / (LARGEST_SHARE + num_nodes - 1)
    assert arrays["bias"].numpy().mean() == pytest.approx(share, abs=0.05)
    assert network.participation[1].taken == 1


def test_counters_and_dtypes_of_the_model_survive_the_average() -> None:
    def build(context: Context) -> Node:
        node = build_same_model_node(context)
        node.model = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
        node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.1)
        return node

    start = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3)).state_dict()
    network, arrays = run(lambda content: None, build=build, start=start)
    assert all(network.participation[vertex].taken == 2 for vertex in range(4))
    assert {name: array.dtype for name, array in arrays.items()} == {
        name: str(value.dtype).removeprefix("torch.") for name, value in start.items()
    }
    assert arrays["0.num_batches_tracked"].numpy() == 4


def test_initial_weights_may_be_in_fortran_order() -> None:
    start = {"weight": torch.zeros(6, 3).T, "bias": torch.zeros(3)}
    for cls in (FedAvg, DSGD):
        network, _ = run(lambda content: None, cls, start=start)
        assert all(network.participation[vertex].taken == 2 for vertex in range(4))


def test_of_two_nodes_the_one_with_the_models_layout_wins() -> None:
    initial = ArrayRecord({"bias": Array(np.zeros(3, np.float32))})
    odd = RecordDict({"arrays": ArrayRecord({"bias": Array(np.zeros(3, np.float64))})})
    usable, refused = usable_weights({0: odd, 1: RecordDict({"arrays": initial})}, initial)
    assert set(usable) == {1}
    assert set(refused) == {0}


def test_results_have_the_metrics_of_each_node() -> None:
    graph = nx.cycle_graph(3)
    strategy = FedAvg(graph, local_steps=2, evaluate_every=2)
    network = strategy.network(FaultyGrid(make_client_app(build_same_model_node), 3, {}))
    evaluated = strategy.start(network, ArrayRecord(dict(START)), num_rounds=3).evaluate_metrics_clientapp
    assert list(evaluated) == [2, 3]
    for number, metrics in evaluated.items():
        own = [network.metrics[number, vertex].values["test-accuracy"] for vertex in range(3)]
        assert metrics["accuracy-per-node"] == own
        assert metrics["accuracy-std"] == pytest.approx(np.std(own))
        assert metrics["accuracy"] == pytest.approx(np.mean(own))  # their test sets are equally large
        assert metrics["vertices"] == [0, 1, 2]
