"""Graphs that vary, nodes that take part now and then, and lost messages, in every strategy."""

from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import REFERENCE_ROWS, FaultyGrid, build_blob_node, build_same_model_node, recorded_grid, run_strategy
from flwr.app import ArrayRecord, Message

from flower_kd import topology
from flower_kd.clients import make_client_app
from flower_kd.clients.training import train
from flower_kd.errors import InputError
from flower_kd.protocol import LAST, Hello, exchanged_rows
from flower_kd.strategies import DSGD, DDist, FedAvg, NeighborKD, Silo

SCHEDULE = {"local_steps": 6, "exchange_every": 2, "evaluate_every": 3}
ROUND = {"local_steps": 6, "evaluate_every": 3}
SOME, LOSSY = {"participation": 0.6}, {"message_loss": 0.4}


def one_peer(num_nodes: int = 4) -> topology.GraphSequence:
    return topology.sequence("one-peer-exponential", num_nodes, exchanges=9)


RUNS = {
    "neighbor-kd": (NeighborKD, {"exchange_rows": 8, "reference_batch": 4, **SCHEDULE}, build_blob_node),
    "median": (NeighborKD, {"pooling": "median", **SCHEDULE}, build_blob_node),
    "d-dist": (DDist, {"exchange_rows": 8, **SCHEDULE}, build_blob_node),
    "d-dist joint": (DDist, {"exchange_rows": 8, **SCHEDULE, "exchange_every": 1}, build_blob_node),
    "d-dist tracking": (DDist, {"consensus": "tracking", **SCHEDULE}, build_blob_node),
    "d-sgd": (DSGD, SCHEDULE, build_same_model_node),
    "d-sgd clipped": (DSGD, {"clip": 0.1, **SCHEDULE}, build_same_model_node),
}


@pytest.mark.parametrize("name", RUNS)
def test_figures_of_a_failing_network_are_the_same_on_every_engine(name: str) -> None:
    cls, settings, build = RUNS[name]
    app = make_client_app(build)
    lossy = {**SOME, **LOSSY} if name != "d-dist tracking" else SOME  # see below for tracking

    def figures(grid, graph, **failing: float) -> dict[str, float]:
        return run_strategy(cls(graph, **settings, **failing), grid)

    failing = figures(FaultyGrid(app, 4, {}), one_peer(), **lossy)
    assert failing == figures(recorded_grid(app, 4), one_peer(), **lossy)
    assert failing != figures(FaultyGrid(app, 4, {}), one_peer())
    assert all(f"3/{vertex}/test-accuracy" in failing for vertex in range(4))


class Watched(FaultyGrid):
    """Keeps the configs and the names of the records of all train messages, by vertex."""

    def stream(self, messages) -> Iterator[tuple[Message, Message]]:
        def noted() -> Iterator[Message]:
            for message in messages:
                if message.metadata.message_type == "train":
                    vertex = int(self.contexts[message.metadata.dst_node_id].node_config["partition-id"])
                    self.sent.append((vertex, dict(message.content["config"]), set(message.content)))
                yield message

        yield from super().stream(noted())


@pytest.fixture
def watched() -> Watched:
    grid = Watched(make_client_app(build_blob_node), 4, {})
    grid.sent = []
    return grid


def test_nodes_that_are_not_drawn_get_no_order(watched: Watched) -> None:
    strategy = NeighborKD(nx.cycle_graph(4), participation=0.5, **SCHEDULE)
    network = strategy.network(watched)
    strategy.start(network, num_rounds=3)
    trained = {(config.get("exchange", 0), vertex) for vertex, config, _ in watched.sent}
    assert trained == {(k, v) for k in range(9) for v in np.flatnonzero(strategy.contacts.taking_part(k))}
    due = [part.due for part in network.participation.values()]
    assert sum(due) == 9 * 2
    assert due == [part.taken for part in network.participation.values()]
    # Each node's last order of a round says so, as it then saves its state.
    for vertex in range(4):
        for server_round in range(1, 4):
            orders = [config for v, config, _ in watched.sent if v == vertex and config["server-round"] == server_round]
            assert [order.get("keep", False) for order in orders] == [False] * (len(orders) - 1) + [True] * bool(orders)


def test_a_teacher_waits_for_its_node_and_says_of_which_exchange_it_is(watched: Watched) -> None:
    made: dict[int, int] = {}
    delayed = []

    class Noting(NeighborKD):
        def teach(self, rows, logits, present):
            teachers = super().teach(rows, logits, present)
            made.update(dict.fromkeys(teachers, self._exchange))
            return teachers

        def taught(self, vertex: int) -> int:
            found = super().taught(vertex)
            if self._due(vertex):
                assert (self._exchange - 1 if found == LAST else found) == made[vertex]
                delayed.append(found != LAST)
            return found

    Noting(nx.complete_graph(4), participation=0.5, exchange_rows=8, **SCHEDULE).start(watched, num_rounds=4)
    assert 0 < sum(delayed) < len(delayed)
    assert len(delayed) == sum("teacher" in records for _, _, records in watched.sent)
    assert sum("taught" in config for _, config, _ in watched.sent) == sum(delayed)


def test_a_late_teacher_is_about_the_rows_of_its_exchange(grid: FaultyGrid, monkeypatch) -> None:
    late = []

    def noted(node, order, teacher, rows, vertex, ask):
        if teacher is not None:
            taught = order.exchange - 1 if order.taught == LAST else order.taught
            assert (rows == exchanged_rows(order.seed, taught, REFERENCE_ROWS, 8)).all()
            late.append(order.taught != LAST)
        return train(node, order, teacher, rows, vertex, ask)

    monkeypatch.setattr("flower_kd.clients.app.train", noted)
    NeighborKD(nx.complete_graph(4), participation=0.5, exchange_rows=8, **SCHEDULE).start(grid, num_rounds=3)
    assert 0 < sum(late) < len(late)


def test_a_lost_message_is_no_teacher() -> None:
    strategy = NeighborKD(nx.path_graph(3), message_loss=0.5, seed=1, local_steps=1)
    logits = torch.eye(3)[:, None] * 30
    for exchange in range(6):
        strategy._exchange = exchange
        received = strategy.contacts.received(exchange).toarray()
        teachers = strategy.teach(np.arange(1), logits, np.ones(3, dtype=bool))
        for vertex in range(3):
            heard = [other for other in range(3) if other != vertex and received[vertex, other]]
            assert heard == topology.neighbors(strategy.graph, vertex)
            assert (vertex in teachers) == bool(heard)
            if heard:
                expected = torch.eye(3)[heard].mean(0)
                torch.testing.assert_close(teachers[vertex].soft_labels[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("graph", "failing"),
    [
        (nx.path_graph(6), LOSSY),
        (nx.star_graph(5), {**LOSSY, **SOME}),
        (topology.sequence("varying(graph='erdos-renyi(edge_probability=0.3)')", 6, exchanges=20), LOSSY),
        (topology.sequence("one-peer-exponential", 6, exchanges=20), SOME),
        (topology.build("random-directed", 6), SOME),
    ],
)
def test_tracking_keeps_the_mean_of_all_predictions(graph, failing: dict[str, float]) -> None:
    strategy = DDist(graph, consensus="tracking", temperature=1.0, local_steps=1, seed=2, **failing)
    strategy.begin({vertex: Hello(vertex, classes=3, reference_rows=4) for vertex in range(6)})
    apart = []
    for exchange in range(12):
        strategy._exchange = exchange
        logits = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(exchange))
        strategy.teach(np.arange(4), logits, strategy.contacts.taking_part(exchange))
        torch.testing.assert_close(strategy.consensus.mean(0), strategy.predictions.mean(0), atol=1e-5, rtol=0)
        apart.append(float((strategy.consensus - strategy.predictions).abs().max()))
    assert max(apart) > 0.05  # nodes did mix


def test_a_lost_message_keeps_weights_in_the_hull_of_what_arrived() -> None:
    strategy = DSGD(nx.cycle_graph(4), message_loss=0.5, seed=3, local_steps=1)
    matrix = strategy.mixing.among(np.ones(4, dtype=bool), 0, strategy.contacts.received(0)).toarray()
    heard = strategy.contacts.received(0).toarray()
    expected = np.where(heard > 0, 1 / 3, 0.0)
    np.fill_diagonal(expected, 1 - (heard.sum(1) - 1) / 3)
    np.testing.assert_allclose(matrix, expected)


def test_fedavg_and_silo_train_the_nodes_that_are_drawn(same_model_grid: FaultyGrid) -> None:
    for strategy in (FedAvg(nx.cycle_graph(4), participation=0.5, **ROUND), Silo(nx.cycle_graph(4), **ROUND, **SOME)):
        network = strategy.network(same_model_grid)
        weights = {"weight": torch.zeros(3, 6), "bias": torch.zeros(3)} if strategy.same_model else {}
        strategy.start(network, ArrayRecord(weights), num_rounds=6)
        drawn = np.array([strategy.contacts.taking_part(k) for k in range(6)])
        trained = {key for key, metrics in network.metrics.items() if "train-loss" in metrics.values}
        assert trained == {(k + 1, v) for k, v in zip(*np.nonzero(drawn), strict=True)}
        assert all((6, vertex) in network.metrics for vertex in range(4))  # all are evaluated


def test_only_messages_over_the_edges_of_an_exchange_are_counted(grid: FaultyGrid) -> None:
    strategy = NeighborKD(one_peer(), message_loss=0.4, **SCHEDULE)
    network = strategy.network(grid)
    strategy.start(network, num_rounds=3)
    # To one node in each exchange but the run's last; lost ones were sent.
    assert network.traffic.messages_over_links.tolist() == [8] * 4
    assert network.traffic.over_links.tolist() == network.traffic.shared.tolist()
    some = NeighborKD(nx.complete_graph(4), participation=0.5, **SCHEDULE)
    network = some.network(grid)
    some.start(network, num_rounds=3)
    assert network.traffic.messages_over_links.sum() == 8 * 2  # each of two nodes to the other
    last = [network.metrics[3, v].values for v in range(4) if "bytes-all-edges" in network.metrics[3, v].values]
    assert all(values["bytes-all-edges"] in network.traffic.over_links for values in last)
    assert len(last) > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NeighborKD(one_peer(), wire_coding="delta"), "which a topology with another graph in each exchange"),
        (
            lambda: NeighborKD(nx.cycle_graph(4), wire_coding="delta", **LOSSY),
            "which message-loss = 0.4 does",
        ),
        (lambda: DDist(nx.cycle_graph(4), wire_coding="delta", **SOME), "which participation = 0.6 .*: use 'entropy'"),
        (lambda: DSGD(nx.cycle_graph(4), compression="uint8", **SOME), "compression = 'uint8' needs .*: use 'none'"),
        (lambda: DDist(one_peer(), consensus="tracking", **LOSSY), "message-loss = 0.4 needs an undirected graph"),
        (lambda: NeighborKD(nx.cycle_graph(4), participation=0.0), "participation = 0.0 must be above 0 and at most 1"),
        (lambda: NeighborKD(nx.cycle_graph(4), message_loss=1.0), "message_loss = 1.0 must be at least 0 and below 1"),
        (lambda: Silo(nx.cycle_graph(4), message_loss=0.1), "unknown argument of Silo 'message_loss'"),
    ],
)
def test_what_is_refused(make, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()
