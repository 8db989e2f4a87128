"""Every strategy on a small network, through the same apps as on Flower's engines."""

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import CLASSES, FaultyGrid, blobs, build_blob_node, build_same_model_node, recorded_grid, run_strategy
from flwr.app import ArrayRecord, Context

from flower_kd.clients import Node, make_client_app, state
from flower_kd.clients.training import evaluate
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import DSGD, DDist, FedAvg, NeighborKD, Silo

SCHEDULE = {"local_steps": 6, "exchange_every": 3, "evaluate_every": 2}
KD_STRATEGIES = {
    "neighbor-kd": lambda graph: NeighborKD(graph, temperature=2.0, exchange_rows=8, reference_batch=4, **SCHEDULE),
    "pairwise": lambda graph: NeighborKD(graph, pooling="pairwise", dissimilarity="js", wire="uint8", **SCHEDULE),
    "msed": lambda graph: NeighborKD(graph, pooling="pairwise", dissimilarity="msed", alpha=0.2, **SCHEDULE),
    "d-dist": lambda graph: DDist(graph, rho=2.0, exchange_rows=8, **SCHEDULE),
    "d-dist joint": lambda graph: DDist(graph, exchange_rows=8, local_steps=6, exchange_every=1, evaluate_every=2),
    "d-dist tracking": lambda graph: DDist(graph, consensus="tracking", dissimilarity="kl", wire="float16", **SCHEDULE),
    "median": lambda graph: NeighborKD(graph, pooling="median", exchange_rows=8, **SCHEDULE),
    "d-dist clipped": lambda graph: DDist(graph, clip=0.1, **SCHEDULE),
    "labels": lambda graph: NeighborKD(graph, wire="labels", wire_coding="delta", temperature=1.0, **SCHEDULE),
    "simplex joint": lambda graph: DDist(
        graph, wire="simplex", wire_coding="delta", exchange_rows=8, local_steps=6, exchange_every=1, evaluate_every=2
    ),
    "silo": lambda graph: Silo(graph, local_steps=6, evaluate_every=2),
}
WEIGHT_STRATEGIES = {
    "d-sgd": lambda graph: DSGD(graph, **SCHEDULE),
    "d-sgd clipped": lambda graph: DSGD(graph, clip=0.1, **SCHEDULE),
    "fedavg": lambda graph: FedAvg(graph, local_steps=6, evaluate_every=2),
    "d-sgd compressed": lambda graph: DSGD(graph, compression="top-k(share=0.1)", **SCHEDULE),
    "fedavg compressed": lambda graph: FedAvg(graph, compression="uint8", local_steps=6, evaluate_every=2),
}
ALL = [(name, make, build_blob_node) for name, make in KD_STRATEGIES.items()]
ALL += [(name, make, build_same_model_node) for name, make in WEIGHT_STRATEGIES.items()]


@pytest.mark.parametrize(("name", "make", "build"), ALL, ids=[case[0] for case in ALL])
def test_figures_do_not_depend_on_the_engine_or_on_node_ids(name, make, build, ring: nx.Graph) -> None:
    """Live nodes, nodes rebuilt from records for each message, and nodes listed backwards give the same figures."""
    app = make_client_app(build)
    live = run_strategy(make(ring), InProcessGrid(app, 4, {}))
    assert live == run_strategy(make(ring), recorded_grid(app, 4))
    backwards = InProcessGrid(app, 4, {})
    backwards.contexts = dict(reversed(backwards.contexts.items()))
    assert live == run_strategy(make(ring), backwards)
    assert all(f"{server_round}/{v}/test-accuracy" in live for server_round in (2, 3) for v in range(4))
    assert "1/0/test-accuracy" not in live  # evaluate_every = 2


def test_teachers_help(ring: nx.Graph, grid: FaultyGrid) -> None:
    """Nodes that never see a class privately learn it from their neighbors."""

    def accuracy(strategy) -> float:
        result = strategy.start(grid, ArrayRecord(), num_rounds=15)
        return result.evaluate_metrics_clientapp[15]["accuracy"]

    schedule = {"local_steps": 6, "evaluate_every": 15}
    alone = accuracy(Silo(ring, **schedule))
    assert accuracy(NeighborKD(ring, alpha=0.3, pooling_self=True, **schedule)) > alone + 0.1
    assert accuracy(DDist(ring, rho=5.0, consensus="tracking", **schedule)) > alone + 0.05


def test_a_second_start_begins_anew(ring: nx.Graph, grid: FaultyGrid) -> None:
    first = run_strategy(NeighborKD(ring, **SCHEDULE), grid)
    assert run_strategy(NeighborKD(ring, **SCHEDULE), grid) == first


def test_results_hold_means_and_lists_by_vertex(ring: nx.Graph, grid: FaultyGrid) -> None:
    result = NeighborKD(ring, **SCHEDULE).start(grid, ArrayRecord(), num_rounds=2)
    metrics = result.evaluate_metrics_clientapp[2]
    assert metrics["vertices"] == [0, 1, 2, 3]
    assert len(metrics["accuracy-per-node"]) == 4
    assert metrics["accuracy"] == pytest.approx(np.mean(metrics["accuracy-per-node"]))
    assert metrics["accuracy-std"] == pytest.approx(np.std(metrics["accuracy-per-node"]))
    assert set(result.train_metrics_clientapp) == {1, 2}


def test_bytes_are_those_of_serialized_messages(ring: nx.Graph, grid: FaultyGrid) -> None:
    def traffic(strategy):
        network = strategy.network(grid)
        strategy.start(network, ArrayRecord(), num_rounds=2)
        return network.traffic

    silo, logits = traffic(Silo(ring, local_steps=6)), traffic(NeighborKD(ring, **SCHEDULE))
    assert (silo.shared == 0).all()
    assert (silo.up > 0).all()
    payload = 4 * 24 * 3 * 4  # exchanges x rows x classes x float32
    assert (logits.shared > payload).all()
    assert (logits.shared < 2 * payload + 4 * 600).all()
    assert (logits.up > logits.shared).all()
    apart = traffic(NeighborKD(ring, pooling="pairwise", **SCHEDULE))
    assert (apart.down > 1.3 * logits.down).all()  # two neighbors' rows come one by one


def test_fedavg_is_the_average_of_what_nodes_trained(ring: nx.Graph, same_model_grid: FaultyGrid) -> None:
    start = ArrayRecord({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)})
    trained = {}

    def watch(vertex, reply):
        if "arrays" in reply.content.array_records:
            share = reply.content.metric_records["metrics"]["num-examples"]
            trained[vertex] = (share, reply.content.array_records["arrays"]["weight"].numpy())
        return reply

    same_model_grid.interfere = watch
    result = FedAvg(ring, local_steps=6).start(same_model_grid, start, num_rounds=1)
    total = sum(share for share, _ in trained.values())
    by_hand = sum(share / total * weight for share, weight in trained.values())
    assert np.allclose(result.arrays["weight"].numpy(), by_hand, atol=1e-6)
    assert not np.allclose(by_hand, 0)


def test_d_sgd_on_a_complete_graph_makes_all_nodes_equal(same_model_grid: FaultyGrid) -> None:
    start = ArrayRecord({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)})
    DSGD(nx.complete_graph(4), local_steps=6).start(same_model_grid, start, num_rounds=2)
    models = [context.state.node.model.weight.detach() for context in same_model_grid.contexts.values()]
    assert all(torch.allclose(models[0], model, atol=1e-6) for model in models)
    assert models[0].abs().max() > 0.1


def build_validated_node(context: Context) -> Node:
    node = build_same_model_node(context)
    vertex = int(context.node_config["partition-id"])
    inputs, labels = blobs(3000 + vertex, 15)
    own = labels != vertex % CLASSES
    node.validation = [(inputs[own], labels[own])]
    return node


@pytest.mark.parametrize(
    "make",
    [NeighborKD, DSGD, FedAvg, lambda graph, local_steps: DDist(graph, rho=2.0, local_steps=local_steps)],
    ids=["neighbor-kd", "d-sgd", "fedavg", "d-dist"],
)
def test_validation_data_are_only_looked_at(make, ring: nx.Graph) -> None:
    """The figures are those without them, beside what nodes say of them; the same on every engine."""
    with_validation = make_client_app(build_validated_node)
    live = run_strategy(make(ring, local_steps=5), InProcessGrid(with_validation, 4, {}))
    assert live == run_strategy(make(ring, local_steps=5), recorded_grid(with_validation, 4))
    plain = run_strategy(make(ring, local_steps=5), InProcessGrid(make_client_app(build_same_model_node), 4, {}))
    added = {key for key in live if "/validation-" in key}
    assert {key: value for key, value in live.items() if key not in added} == plain
    names = ("validation-accuracy", "validation-loss")
    assert added == {
        f"{server_round}/{vertex}/{name}" for server_round in (1, 2, 3) for vertex in range(4) for name in names
    }


@pytest.mark.parametrize("records", [True, False])
def test_each_node_keeps_the_weights_with_which_it_was_best(records: bool, ring: nx.Graph) -> None:
    app = make_client_app(build_validated_node)
    grid = recorded_grid(app, 4) if records else InProcessGrid(app, 4, {})
    result = Silo(ring, local_steps=2).start(grid, num_rounds=6)
    losses = np.array([result.evaluate_metrics_clientapp[n]["validation-loss-per-node"] for n in range(1, 7)])
    assert "validation-loss" not in result.train_metrics_clientapp[6]
    for context in grid.contexts.values():
        vertex = int(context.node_config["partition-id"])
        node, score = build_validated_node(context), state.best_score(context)
        assert (score.round, score.loss) == (losses[:, vertex].argmin() + 1, losses[:, vertex].min())
        node.model.load_state_dict(context.state[state.BEST].to_torch_state_dict())
        assert evaluate(node.model, node.validation)["loss"] == score.loss
    assert len(set(losses.argmin(0))) > 1
