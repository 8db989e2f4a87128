"""Nodes that answer late or never, on a simulated clock."""

import logging
import math
from collections.abc import Iterable

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import DelayedGrid, FaultyGrid, build_blob_node, build_same_model_node
from flwr.app import ArrayRecord, Error, Message, MessageType

from flower_kd.clients import make_client_app
from flower_kd.errors import InputError
from flower_kd.strategies import DSGD, DDist, FedAvg, NeighborKD, Silo

TIMEOUT = 3600.0


def messages(caplog, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


@pytest.fixture(autouse=True)
def _capture_info(caplog) -> None:
    logging.getLogger("flwr").propagate = True
    caplog.set_level(logging.INFO)


def start(strategy, delay, num_rounds: int, build=build_blob_node):
    """Return the network and the grid of a run in which answers take as long as `delay` says."""
    grid = DelayedGrid(FaultyGrid(make_client_app(build), 4, {}), delay)
    network = grid.watched(strategy.network(grid))
    arrays = (
        ArrayRecord({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)}) if strategy.same_model else ArrayRecord()
    )
    strategy.start(network, arrays, num_rounds=num_rounds, timeout=TIMEOUT)
    return network, grid


@pytest.mark.parametrize("cls", [NeighborKD, DDist, DSGD, FedAvg, Silo])
def test_a_silent_node_costs_one_timeout_and_one_warning(cls, ring: nx.Graph, caplog) -> None:
    def delay(vertex: int, message: Message) -> float:
        return math.inf if vertex == 2 and message.metadata.message_type != "query.join" else 5.0

    network, grid = start(cls(ring, local_steps=2), delay, 4, build_same_model_node)
    exchanges = 2 * 4
    assert TIMEOUT <= grid.now < TIMEOUT + 10 * exchanges
    assert messages(caplog, "continues without") == [
        "round 1 continues without node 2: no reply in time (timeout = 3600 s)",
    ]
    assert network.participation[2].due == 4
    assert network.participation[2].taken == 0
    assert [network.participation[vertex].taken for vertex in (0, 1, 3)] == [4, 4, 4]
    to_it = [m for m in grid.pushed if m.metadata.dst_node_id == network.node_id(2)]
    second = "evaluate" if cls in (DSGD, FedAvg) else "train"
    assert [m.metadata.message_type for m in to_it] == ["query.join", "train", second]  # one a timeout: no queue


def test_a_late_answer_is_never_mixed_in_and_brings_the_node_back(ring: nx.Graph, caplog) -> None:
    """One answer takes longer than the timeout; then the node is as quick as the others."""
    slow = {"once": True}

    def delay(vertex: int, message: Message) -> float:
        late = vertex == 2 and message.metadata.message_type == MessageType.TRAIN and slow.pop("once", False)
        return TIMEOUT + 700 if late else 300.0

    strategy = NeighborKD(ring, local_steps=2)
    used: list[tuple[int, list[int]]] = []
    absorb = strategy.absorb

    def watched(replies):
        replies = list(replies)
        used.append((strategy._exchange, sorted(vertex for vertex, _ in replies)))
        return absorb(replies)

    strategy.absorb = watched
    network, grid = start(strategy, delay, 6)
    # It answers 700 s after the timeout, and then the message of round 2: the others are some exchanges further.
    assert [vertices for _, vertices in used] == [[0, 1, 3]] * 4 + [[0, 1, 2, 3]] * 2
    assert messages(caplog, "continues without node 2") == [
        "round 1 continues without node 2: no reply in time (timeout = 3600 s)"
    ]
    assert messages(caplog, "node 2 is back") == ["node 2 is back in round 5, with its own weights"]
    part = network.participation[2]
    assert (part.due, part.taken, sum(part.reasons.values())) == (6, 2, 4)
    assert grid.now < TIMEOUT + 7 * 301
    # What it answered to the messages of rounds 1 and 2 never became figures; about 3 and 4 it was not asked.
    assert not any((server_round, 2) in network.metrics for server_round in (1, 2, 3, 4))
    trains = [m for m in grid.pushed if m.metadata.dst_node_id == network.node_id(2)]
    rounds = [m.content["config"]["server-round"] for m in trains if m.metadata.message_type == MessageType.TRAIN]
    assert rounds == [1, 2, 5, 6]


def test_a_reply_that_does_not_end_costs_no_other_node_its_round(ring: nx.Graph, caplog) -> None:
    """A link falls silent in the middle of a reply: Flower's fetch of replies then lasts longer than the timeout."""

    class Blocking(DelayedGrid):
        begun: Message | None = None

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            replies = super().pull_messages(message_ids)
            for place, reply in enumerate(replies):
                if self.begun is None and reply.metadata.message_type == MessageType.TRAIN and reply.has_content():
                    self.begun = reply
                    self.now += 2 * TIMEOUT
                    message = next(
                        m for m in self.pushed if m.metadata.message_id == reply.metadata.reply_to_message_id
                    )
                    replies[place] = Message(Error(9, "the reply is unavailable"), reply_to=message)
            return replies

    grid = Blocking(
        FaultyGrid(make_client_app(build_blob_node), 4, {}), lambda vertex, _: 5.0 if vertex == 1 else 10.0 + vertex
    )
    strategy = NeighborKD(ring, local_steps=2)
    network = grid.watched(strategy.network(grid))
    strategy.start(network, ArrayRecord(), num_rounds=2, timeout=TIMEOUT)
    assert grid.begun is not None
    assert messages(caplog, "continues without") == [
        "round 1 continues without node 1: it failed: the reply is unavailable"
    ]
    assert [network.participation[vertex].taken for vertex in range(4)] == [2, 1, 2, 2]


def test_the_run_continues_if_all_are_late_in_round_one(ring: nx.Graph) -> None:
    seen: dict[int, int] = {}

    def delay(vertex: int, message: Message) -> float:
        if message.metadata.message_type == "query.join":
            return 1.0
        seen[vertex] = seen.get(vertex, 0) + 1
        return 1.2 * TIMEOUT if seen[vertex] == 1 else 5.0

    network, _ = start(NeighborKD(ring, local_steps=2), delay, 3)
    assert all(network.participation[vertex].taken == 2 for vertex in range(4))
    assert all("test-accuracy" in network.metrics[3, vertex].values for vertex in range(4))


def test_the_run_ends_if_no_node_ever_answers(ring: nx.Graph, caplog) -> None:
    def delay(vertex: int, message: Message) -> float:
        return 1.0 if message.metadata.message_type == "query.join" else math.inf

    with pytest.raises(InputError, match=r"no node took part in 3 exchanges in a row, .*node 0: no reply in time"):
        start(NeighborKD(ring, local_steps=2), delay, 9)
    assert len(messages(caplog, "continues without")) == 4  # one a node


def test_figures_are_those_of_the_in_process_engine(ring: nx.Graph) -> None:
    figures = []
    for grid in (
        FaultyGrid(make_client_app(build_blob_node), 4, {}),
        DelayedGrid(FaultyGrid(make_client_app(build_blob_node), 4, {}), lambda vertex, message: 4.0 - vertex),
    ):
        strategy = DDist(ring, local_steps=4, exchange_every=2)
        network = strategy.network(grid)
        if isinstance(grid, DelayedGrid):
            grid.watched(network)
        strategy.start(network, ArrayRecord(), num_rounds=2, timeout=TIMEOUT)
        figures.append({key: m.values | {"seconds": 0.0} for key, m in network.metrics.items()})
        assert np.all(network.traffic.down > 0)
    assert figures[0] == figures[1]


@pytest.mark.parametrize(("restored", "words"), [(0, "with fresh weights"), (2, "with its own weights of round 2")])
def test_a_returning_node_is_logged_with_its_weights(restored: int, words: str, ring: nx.Graph, caplog) -> None:
    faulty = FaultyGrid(make_client_app(build_blob_node), 4, {})
    grid = DelayedGrid(faulty)
    old = list(faulty.contexts)[1]

    def interfere(vertex: int, reply: Message) -> Message | None:
        if reply.metadata.message_type == "query.join" and reply.metadata.src_node_id == 4242:
            reply.content["hello"]["restored-round"] = restored
        if vertex == 1 and reply.metadata.message_type == "train" and old in faulty.contexts:
            context = faulty.contexts.pop(old)
            context.node_id, context.state.node = 4242, None
            faulty.contexts[4242] = context
            return None
        return reply

    faulty.interfere = interfere
    strategy = NeighborKD(ring, local_steps=2)
    strategy.start(grid.watched(strategy.network(grid)), ArrayRecord(), num_rounds=4, timeout=TIMEOUT)
    back = messages(caplog, "node 1 is back")
    assert len(back) == 1
    assert back[0].endswith(words)
    assert grid.now < TIMEOUT + 100
