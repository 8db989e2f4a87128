"""Nodes are evaluated in the message that trains them, unless their weights are mixed in between."""

from collections.abc import Iterator

import networkx as nx
import pytest
from conftest import FaultyGrid, build_blob_node, build_same_model_node, replace_evaluation
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from torch import Tensor

from flower_kd.clients import Node, make_client_app
from flower_kd.strategies import DSGD, DDist, GraphStrategy, NeighborKD, Silo
from flower_kd.strategies.network import Network
from flower_kd.strategies.registry import STRATEGIES


def run(strategy: GraphStrategy, grid: FaultyGrid, rounds: int = 4, **settings) -> tuple[Network, list[str]]:
    """Return the network after a run, and the types of the messages that node 0 answered."""
    kinds: list[str] = []
    interfere = grid.interfere

    def noted(vertex: int, reply: Message) -> Message | None:
        if vertex == 0:
            kinds.append(reply.metadata.message_type)
        return interfere(vertex, reply) if interfere else reply

    grid.interfere = noted
    network = strategy.network(grid)
    strategy.start(network, num_rounds=rounds, **settings)
    return network, kinds


def figures(network: Network) -> dict:
    return {key: found.values | {"seconds": 0.0} for key, found in network.metrics.items()}


@pytest.mark.parametrize("participation", [1.0, 0.5])
@pytest.mark.parametrize("make", [NeighborKD, DDist, Silo])
def test_one_message_a_round_has_the_same_figures(make, participation: float, ring: nx.Graph) -> None:
    def strategy() -> GraphStrategy:
        more = {} if make is Silo else {"exchange_every": 2}
        return make(ring, local_steps=4, evaluate_every=2, participation=participation, **more)

    app = make_client_app(build_blob_node)
    together, kinds = run(strategy(), FaultyGrid(app, 4, {}))
    apart, more_kinds = run(strategy(), FaultyGrid(app, 4, {}), evaluate_config=ConfigRecord({"why": "to ask apart"}))
    assert figures(together) == figures(apart)
    assert sum("test-accuracy" in values for values in figures(together).values()) == 4 * 2
    assert more_kinds.count("evaluate") == 2
    if participation == 1:
        assert "evaluate" not in kinds
    for name in ("shared", "messages", "over_links"):
        assert (getattr(together.traffic, name) == getattr(apart.traffic, name)).all()
    assert together.traffic.up.sum() < apart.traffic.up.sum()
    assert together.traffic.down.sum() < apart.traffic.down.sum()


def test_mixed_weights_are_evaluated_by_a_message_of_their_own(ring: nx.Graph) -> None:
    class Smoothed(NeighborKD):
        """A strategy of a user, whose nodes get something before they are evaluated."""

        def evaluation_payload(self, vertex: int) -> dict[str, ArrayRecord]:
            return {}

    for strategy in (DSGD(ring, local_steps=2), Smoothed(ring, local_steps=2)):
        _, kinds = run(strategy, FaultyGrid(make_client_app(build_same_model_node), 4, {}), rounds=2)
        assert [kind for kind in kinds if kind != "query.join"] == ["train", "evaluate"] * 2


@pytest.mark.parametrize("name", [name for name in STRATEGIES.names() if name not in ("multi-head", "fedavg")])
def test_only_strategies_that_mix_weights_ask_apart(name: str, ring: nx.Graph) -> None:
    cls = STRATEGIES.get(name)
    build = build_same_model_node if cls.same_model else build_blob_node
    _, kinds = run(cls(ring, local_steps=2), FaultyGrid(make_client_app(build), 4, {}), rounds=2)
    assert ("evaluate" in kinds) == cls.same_model


def test_a_node_whose_evaluation_fails_teaches_and_is_named(ring: nx.Graph, caplog) -> None:
    class Broken(list[tuple[Tensor, Tensor]]):
        passes = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.passes += 1
            if self.passes > 1:  # the handshake tries it once
                raise RuntimeError("the test set is gone")
            return super().__iter__()

    def build(context: Context) -> Node:
        node = build_blob_node(context)
        if context.node_config["partition-id"] == 2:
            node.test = Broken(node.test)
        return node

    caplog.set_level("WARNING", "flwr")
    network, _ = run(NeighborKD(ring, local_steps=2), FaultyGrid(make_client_app(build), 4, {}), rounds=3)
    assert network.participation[2].taken == 3
    assert network.traffic.messages[2] == 2
    tested = {vertex for (_, vertex), found in network.metrics.items() if "test-accuracy" in found.values}
    assert tested == {0, 1, 3}
    named = [r.getMessage() for r in caplog.records if "round 1 continues without node 2" in r.getMessage()]
    assert len(named) == 1
    assert "the test set is gone" in named[0]


def test_a_node_whose_evaluation_failed_once_is_back_with_the_next(ring: nx.Graph, caplog) -> None:
    """Until then, another node could take its place."""
    left = [2]  # the evaluation in its reply, and that by a message of its own

    def spoil(values: dict) -> dict:
        left[0] -= 1
        return values | {"accuracy": 2.0}

    def interfere(vertex: int, reply: Message) -> Message:
        if vertex == 2 and left[0] > 0:
            replace_evaluation(reply, spoil)
        return reply

    grid = FaultyGrid(make_client_app(build_blob_node), 4, {})
    grid.interfere = interfere
    caplog.set_level("WARNING", "flwr")
    network, _ = run(NeighborKD(ring, local_steps=2), grid, rounds=4)
    assert left == [0]
    assert ["test-accuracy" in network.metrics[r, 2].values for r in (1, 2, 3, 4)] == [False, True, True, True]
    lines = [r.getMessage() for r in caplog.records if "node 2" in r.getMessage()]
    assert len(lines) == 2
    assert lines[0].startswith("round 1 continues without node 2: 'accuracy' = 2.0 in its report")
    assert lines[1].startswith("node 2 is back in round 2")
    assert network.absent == {}
