"""With pipeline = 1, messages wait at the nodes, and teachers are one exchange older."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from conftest import DelayedGrid, FaultyGrid, build_blob_node, killed_after
from flwr.app import ArrayRecord, Message
from flwr.superlink.grid import InMemoryGrid

from flower_kd import sim
from flower_kd.clients import make_client_app
from flower_kd.clients.state import LiveState
from flower_kd.errors import InputError
from flower_kd.protocol import LAST, Order
from flower_kd.strategies import DDist, DistillationStrategy, GraphStrategy, MultiHead, NeighborKD, Silo
from flower_kd.strategies.delivery import Delivery
from flower_kd.strategies.network import Network

APP = make_client_app(build_blob_node)
TIMEOUT = 100.0


def over_links(strategy: GraphStrategy, rounds: int, delay=lambda vertex, message: 5.0) -> tuple[Network, DelayedGrid]:
    """Run a strategy on nodes that answer one message after the other, as devices do."""
    grid = DelayedGrid(FaultyGrid(APP, strategy.num_nodes, {}), delay)
    network = grid.watched(strategy.network(grid))
    strategy.start(network, num_rounds=rounds, timeout=TIMEOUT)
    return network, grid


def figures(network: Network) -> dict[tuple[int, int], dict[str, float]]:
    return {key: found.values | {"seconds": 0.0} for key, found in network.metrics.items()}


SETTINGS: list[tuple[type[DistillationStrategy], dict[str, Any]]] = [
    (NeighborKD, {"local_steps": 2}),
    (NeighborKD, {"local_steps": 4, "exchange_every": 2, "exchange_rows": 8, "evaluate_every": 2}),
    (NeighborKD, {"local_steps": 2, "participation": 0.5, "exchange_rows": 8, "message_loss": 0.3}),
    (DDist, {"local_steps": 4, "exchange_every": 2, "consensus": "tracking", "exchange_rows": 12}),
    (DDist, {"local_steps": 3, "exchange_every": 1, "exchange_rows": 8, "reference_batch": 0}),
    (DDist, {"local_steps": 3, "exchange_every": 1, "exchange_rows": 8, "participation": 0.5}),
]


@pytest.mark.parametrize(("make", "settings"), SETTINGS)
def test_figures_are_those_in_process(make, settings: dict, ring: nx.Graph) -> None:
    strategy = make(ring, pipeline=1, **settings)
    here = strategy.network(FaultyGrid(APP, 4, {}))
    strategy.start(here, num_rounds=6)
    there, _ = over_links(make(ring, pipeline=1, **settings), 6)
    assert figures(there) == figures(here)
    for name, found in vars(here.traffic).items():
        assert found.tolist() == getattr(there.traffic, name).tolist(), name
    without = make(ring, **settings)
    other = without.network(FaultyGrid(APP, 4, {}))
    without.start(other, num_rounds=6)
    assert figures(other) != figures(here)


def test_messages_wait_at_nodes_and_teachers_are_one_exchange_older(ring: nx.Graph) -> None:
    strategy = NeighborKD(ring, local_steps=2, exchange_rows=8, pipeline=1)
    _, grid = over_links(strategy, 5)
    orders = [m for m in grid.pushed if m.metadata.message_type == "train"]
    to_one = [m for m in orders if m.metadata.dst_node_id == orders[0].metadata.dst_node_id]
    found = [Order.from_record(message.content["config"]) for message in to_one]
    assert [order.exchange for order in found] == [0, 1, 2, 3, 4]
    assert ["teacher" in message.content for message in to_one] == [False, False, True, True, True]
    assert [order.taught for order in found] == [LAST, LAST, 0, 1, 2]
    assert [order.reply for order in found] == ["logits", "logits", "logits", "nothing", "nothing"]


def test_no_node_waits_for_others(ring: nx.Graph) -> None:
    """Two nodes are slow in turns; what takes each its own time is done at the same time."""

    def delay(vertex: int, message: Message) -> float:
        server_round = int(message.content["config"].get("server-round", 0))
        return 0.0 if server_round == 0 else 9.0 if vertex == server_round % 2 else 1.0

    def seconds(pipeline: int) -> float:
        return over_links(NeighborKD(ring, local_steps=1, pipeline=pipeline), 8, delay)[1].now

    assert seconds(0) > 8 * 9
    assert seconds(1) < 0.75 * seconds(0)


def test_a_node_that_is_gone_for_a_while_returns(ring: nx.Graph, caplog) -> None:
    seen = {"lost": 0}

    def delay(vertex: int, message: Message) -> float:
        server_round = message.content["config"].get("server-round", 0)
        if vertex == 2 and server_round in (2, 3):
            seen["lost"] += 1
            return math.inf
        return 5.0

    network, _ = over_links(NeighborKD(ring, local_steps=1, pipeline=1), 30, delay)
    assert seen["lost"] == 2
    assert [network.participation[vertex].taken for vertex in (0, 1, 3)] == [30] * 3
    part = network.participation[2]
    assert part.due == 30
    assert 5 < part.taken < 30
    assert any("node 2 is back" in record.getMessage() for record in caplog.records)
    assert not [key for key in network.metrics if key in ((2, 2), (3, 2))]


@pytest.mark.parametrize("ids", [["same"], ["other"], ["other", "first"]])
def test_a_restarted_node_joins_again(ids: list[str], ring: nx.Graph, caplog) -> None:
    grid = DelayedGrid(FaultyGrid(APP, 4, {}), lambda vertex, message: 5.0)
    strategy = NeighborKD(ring, local_steps=1, pipeline=1)
    network = grid.watched(strategy.network(grid))
    restarts = dict(zip((4, 12), ids, strict=False))
    first: list[int] = []

    def restart(vertex: int, reply: Message) -> Message:
        server_round = max((number for number, _ in network.metrics), default=0)
        if vertex == 1 and server_round in restarts:
            node = network.node_id(1)
            first.append(node)
            context = grid.grid.contexts.pop(node)
            context.state = LiveState()
            context.node_id = {"same": node, "other": 777, "first": first[0]}[restarts.pop(server_round)]
            grid.grid.contexts[context.node_id] = context
        return reply

    grid.grid.interfere = restart
    strategy.start(network, num_rounds=20, timeout=TIMEOUT)
    assert 20 - 5 * len(ids) <= network.participation[1].taken <= 20 - 2 * len(ids)
    assert [network.participation[vertex].taken for vertex in (0, 2, 3)] == [20] * 3
    assert sum("node 1 is back" in record.getMessage() for record in caplog.records) == len(ids)
    assert not [r for r in caplog.records if "joined late" in r.getMessage()]
    assert {key[0] for key in network.metrics if key[1] == 1} >= {18, 19, 20}


@pytest.mark.parametrize("teachers", ["reference", "private"])
@pytest.mark.parametrize("node_id", ["same", "other"])
def test_a_restarted_node_gets_its_lasting_teacher_again(teachers: str, node_id: str, ring: nx.Graph) -> None:
    """The message that it answers first was composed before it was known that the node had lost it."""
    from test_patience_of_two_heads import build

    grid = DelayedGrid(FaultyGrid(make_client_app(build), 4, {}), lambda vertex, message: 5.0)
    strategy = MultiHead(ring, local_steps=2, teachers=teachers, pipeline=1)
    network = grid.watched(strategy.network(grid))
    answered: dict[int, bool] = {}  # by round: whether the message to node 1 has its teacher

    def restart(vertex: int, reply: Message) -> Message:
        if vertex == 1 and reply.metadata.message_type == "train" and reply.has_content():
            message = next(m for m in grid.pushed if m.metadata.message_id == reply.metadata.reply_to_message_id)
            server_round = int(message.content["config"]["server-round"])
            answered[server_round] = "teacher" in message.content or "teacher-weights" in message.content
            if server_round == 9:
                context = grid.grid.contexts.pop(network.node_id(1))
                context.state = LiveState()
                context.node_id = context.node_id if node_id == "same" else 777
                grid.grid.contexts[context.node_id] = context
        return reply

    grid.grid.interfere = restart
    strategy.start(network, num_rounds=14, timeout=TIMEOUT)
    assert next(server_round for server_round, taught in answered.items() if taught) == 8
    again = [taught for server_round, taught in answered.items() if server_round > 9]
    assert sum(again) == 1
    assert any(again[:2])


@pytest.mark.parametrize("strategy", ["neighbor-kd", "d-dist"])
def test_a_resumed_run_has_the_same_figures(strategy: str, tmp_path) -> None:
    config = {
        "strategy": strategy, "baseline": "none", "num-server-rounds": 5, "local-steps": 2, "samples-per-node": 20,
        "reference-size": 40, "exchange-rows": 20, "pipeline": 1, "participation": 0.7,
    }  # fmt: skip
    whole = sim.run(config, 3, tmp_path / "whole")
    with killed_after(3):
        sim.run(config, 3, tmp_path / "resumed", workers=2)
    resumed = sim.run(config | {"resume": True}, 3, tmp_path / "resumed")
    assert resumed.accuracy == whole.accuracy
    assert resumed.bytes["per_edge"] == whole.bytes["per_edge"]


def test_a_device_ahead_of_a_killed_server_still_has_the_round_that_is_resumed(ring: nx.Graph, tmp_path: Path) -> None:
    """It has finished two rounds that the server has not."""

    class Killed(NeighborKD):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            if server_round == 3:  # the messages of rounds 3 and 4 are answered; the last checkpoint is of round 2
                raise KeyboardInterrupt
            return super().aggregate_train(server_round, replies)

    nodes = FaultyGrid(APP, 4, {})
    for vertex, context in enumerate(nodes.contexts.values()):
        (tmp_path / str(vertex)).mkdir()
        context.node_config["state-dir"] = str(tmp_path / str(vertex))
    grid = DelayedGrid(nodes)
    strategy = Killed(ring, local_steps=1, pipeline=1)
    network = grid.watched(strategy.network(grid))
    network.greeting = replace(network.greeting, token="run")
    with pytest.raises(KeyboardInterrupt):
        strategy.start(network, num_rounds=6, timeout=TIMEOUT)
    assert {m.content["config"].get("server-round") for m in grid.pushed} == {None, 1, 2, 3, 4}
    network.greeting = replace(network.greeting, fresh=False, server_round=2)
    for context in nodes.contexts.values():
        context.state = LiveState()
    assert [hello.restored_round for _, hello in sorted(network.join().items())] == [2] * 4


def test_nodes_that_are_evaluated_by_a_message_are_not_sent_the_next_one_before_it(ring: nx.Graph) -> None:
    class Smoothed(NeighborKD):
        """A strategy of a user, whose nodes get something before they are evaluated."""

        def evaluation_payload(self, vertex: int) -> dict[str, ArrayRecord]:
            return {}

    def strategy() -> Smoothed:
        return Smoothed(ring, local_steps=4, exchange_every=2, evaluate_every=2, pipeline=1)

    here = strategy().network(FaultyGrid(APP, 4, {}))
    strategy().start(here, num_rounds=5)
    there, grid = over_links(strategy(), 5)
    assert figures(there) == figures(here)
    assert {key[0] for key, found in there.metrics.items() if "test-accuracy" in found.values} == {2, 4, 5}
    kinds = [m.metadata.message_type for m in grid.pushed if m.metadata.dst_node_id == there.node_id(0)]
    assert kinds[1:] == [*["train"] * 4, "evaluate", *["train"] * 4, "evaluate", *["train"] * 2, "evaluate"]


def test_what_was_sent_ahead_is_in_the_state(ring: nx.Graph) -> None:
    """The message that waits at a node is lost with the SuperLink, and so is sent again by the resumed run."""

    def states(grid: Any) -> list[dict[str, list]]:
        strategy = NeighborKD(ring, local_steps=1, pipeline=1)
        found = []
        strategy.on_round = lambda _: found.append({k: v.tolist() for k, v in strategy.state_dict().items()})
        network = strategy.network(grid)
        if isinstance(grid, DelayedGrid):
            grid.watched(network)
        strategy.start(network, num_rounds=5, timeout=TIMEOUT)
        return found

    here, there = states(FaultyGrid(APP, 4, {})), states(DelayedGrid(FaultyGrid(APP, 4, {}), lambda *_: 5.0))
    assert here == there
    assert [len(state) for state in here] == [4, 8, 8, 4, 0]


def test_teachers_that_were_sent_are_kept_only_if_they_may_be_sent_again(ring: nx.Graph) -> None:
    def kept(pipeline: int) -> list[int]:
        """Return of how many nodes the strategy has teachers, after each round."""
        strategy = NeighborKD(ring, local_steps=1, pipeline=pipeline)
        found: list[int] = []
        strategy.on_round = lambda _: found.append(len(strategy._sent_ahead))
        strategy.start(strategy.network(FaultyGrid(APP, 4, {})), num_rounds=4)
        return found

    assert kept(0) == [0] * 4
    assert kept(1) == [0, 0, 4, 4]


def test_a_strategy_without_messages_to_wait_for_needs_no_pipeline(ring: nx.Graph) -> None:
    with pytest.raises(InputError, match=r"unknown argument of Silo 'pipeline'"):
        Silo(ring, pipeline=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patience": 2}, r"pipeline = 1 .* \(use patience = 0\)"),
        ({"wire_coding": "delta", "wire": "labels"}, r"pipeline = 1 .* use wire-coding = 'entropy'"),
        ({"pipeline": 2}, "pipeline = 2 must be 0 or 1"),
    ],
)
def test_what_cannot_be_known_ahead_is_refused(settings: dict, words: str, ring: nx.Graph) -> None:
    for make in (NeighborKD, DDist, MultiHead):
        with pytest.raises(InputError, match=words):
            make(ring, **{"pipeline": 1} | settings)


@pytest.mark.parametrize(("rounds", "words"), [(1, "one exchange"), (2, "2 exchanges"), (3, "")])
def test_a_run_too_short_to_teach_says_so(rounds: int, words: str, ring: nx.Graph, caplog) -> None:
    NeighborKD(ring, local_steps=1, pipeline=1).start(FaultyGrid(APP, 4, {}), num_rounds=rounds)
    warnings = [r.getMessage() for r in caplog.records if "no node will be taught" in r.getMessage()]
    assert [words in line for line in warnings] == ([True] if words else [])


def test_messages_are_sent_ahead_only_where_they_wait_in_order() -> None:
    simulation = object.__new__(InMemoryGrid)  # Flower's engine answers several messages of a node at once
    assert not Delivery(simulation, lambda: 0.0, lambda _: None, on_sent=lambda _: None).queues
    assert not Delivery(FaultyGrid(APP, 2, {}), lambda: 0.0, lambda _: None, on_sent=lambda _: None).queues
    assert Delivery(DelayedGrid(FaultyGrid(APP, 2, {})), lambda: 0.0, lambda _: None, on_sent=lambda _: None).queues
