"""Noise on logits in whole runs: figures that repeat, and a count of every message with noise."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from conftest import DelayedGrid, FaultyGrid, blobs, build_blob_node, recorded_grid, run_strategy
from flwr.app import Context, Message

from flower_kd.clients import Node, make_client_app
from flower_kd.errors import InputError
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import DDist, MultiHead, NeighborKD, Network
from flower_kd.strategies.distillation import DistillationStrategy

NOISE = "gaussian(clip=2.0, multiplier=0.02)"
APP = make_client_app(build_blob_node)
SHORT: dict[str, Any] = {"local_steps": 2, "wire_noise": NOISE}
STRATEGIES: dict[str, Callable[..., DistillationStrategy]] = {
    "float32": lambda graph, **more: NeighborKD(graph, **SHORT | more),
    "labels, delta": lambda graph, **more: NeighborKD(graph, wire="labels", wire_coding="delta", **SHORT | more),
    "simplex, entropy": lambda graph, **more: DDist(graph, wire="simplex", wire_coding="entropy", **SHORT | more),
    "joint": lambda graph, **more: DDist(
        graph, wire="uint8", exchange_every=1, exchange_rows=8, reference_batch=8, **SHORT | more
    ),
    "adjusted": lambda graph, **more: NeighborKD(graph, logit_adjustment=1.0, pooling="vote", **SHORT | more),
}


def joined(strategy: DistillationStrategy, grid: Any, rounds: int = 3) -> Network:
    network = strategy.network(grid)
    strategy.start(network, num_rounds=rounds)
    return network


@pytest.mark.parametrize("name", STRATEGIES)
def test_figures_repeat_on_every_engine_and_depend_on_the_noise(name: str, ring: nx.Graph) -> None:
    first = run_strategy(STRATEGIES[name](ring), InProcessGrid(APP, 4, {}))
    assert run_strategy(STRATEGIES[name](ring), recorded_grid(APP, 4)) == first
    assert run_strategy(STRATEGIES[name](ring, wire_noise="none"), InProcessGrid(APP, 4, {})) != first


@pytest.mark.parametrize(
    ("name", "messages"),
    [("float32", 2), ("labels, delta", 2), ("simplex, entropy", 2), ("joint", 5), ("adjusted", 2)],
)
def test_every_message_with_noise_is_counted(name: str, messages: int, ring: nx.Graph) -> None:
    network = joined(STRATEGIES[name](ring), InProcessGrid(APP, 4, {}))
    assert network.noised_messages.tolist() == [messages] * 4
    assert joined(STRATEGIES[name](ring, wire_noise="none"), InProcessGrid(APP, 4, {})).noised_messages.sum() == 0


def test_a_reply_that_was_lost_is_counted(ring: nx.Graph) -> None:
    grid = FaultyGrid(APP, 4, {})
    grid.interfere = lambda vertex, reply: None if vertex == 1 and reply.metadata.message_type == "train" else reply
    network = joined(STRATEGIES["float32"](ring), grid)
    assert network.participation[1].taken == 0
    assert network.noised_messages.tolist() == [2] * 4


def test_a_message_that_was_never_sent_is_not_counted(ring: nx.Graph) -> None:
    """A silent node gets one message per timeout, not one per exchange."""
    grid = DelayedGrid(
        FaultyGrid(APP, 4, {}),
        lambda vertex, message: math.inf if vertex == 2 and message.metadata.message_type != "query.join" else 1.0,
    )
    strategy = STRATEGIES["float32"](ring)
    network = grid.watched(strategy.network(grid))
    strategy.start(network, num_rounds=5)
    assert network.noised_messages.tolist() == [4, 4, 2, 4]  # of rounds 1 and 2


def test_nodes_that_are_not_drawn_send_less(ring: nx.Graph) -> None:
    network = joined(STRATEGIES["float32"](ring, participation=0.5), InProcessGrid(APP, 4, {}), rounds=9)
    assert network.noised_messages.sum() == 2 * 8
    taken = np.array([network.participation[vertex].taken for vertex in range(4)])
    last = np.flatnonzero(network.noised_messages != taken)
    assert len(last) == 2  # they trained in the last exchange, too, in which no logits are sent
    assert (taken[last] == network.noised_messages[last] + 1).all()


def validated(context: Context) -> Node:
    """Return a node that gets worse on its validation samples the more it learns."""
    node = build_blob_node(context)
    inputs, labels = blobs(3000 + int(context.node_config["partition-id"]), 15)
    node.validation = [(inputs, (labels + 1) % 3)] if int(context.node_config["partition-id"]) else node.test
    return node


def test_a_node_that_has_stopped_answers_with_noise_and_is_counted(ring: nx.Graph) -> None:
    answers: dict[int, list[bytes]] = {}

    def noted(vertex: int, reply: Message) -> Message:
        if "logits" in reply.content:
            answers.setdefault(vertex, []).append(reply.content["logits"]["rows"].data)
        return reply

    grid = FaultyGrid(make_client_app(validated), 4, {})
    grid.interfere = noted
    network = joined(STRATEGIES["float32"](ring, patience=2), grid, rounds=8)
    stopped = network.early_stopping.stopped.tolist()
    assert stopped == [8, 3, 3, 3]
    assert network.noised_messages.tolist() == [7] * 4
    assert all(len(set(sent)) == 7 for sent in answers.values())


def test_head_1_is_sent_once(ring: nx.Graph) -> None:
    from test_patience_of_two_heads import build

    strategy = MultiHead(ring, local_steps=2, wire_noise=NOISE)
    network = joined(strategy, InProcessGrid(make_client_app(build), 4, {}), rounds=4)
    assert network.noised_messages.tolist() == [1] * 4
    private = MultiHead(ring, local_steps=2, wire_noise=NOISE, teachers="private")
    assert joined(private, InProcessGrid(make_client_app(build), 4, {}), rounds=4).noised_messages.sum() == 0


class Devices(InProcessGrid):
    """Nodes with folders of their own, in which they count."""

    def __init__(self, folder: Path) -> None:
        super().__init__(APP, 4, {})
        for vertex, context in enumerate(self.contexts.values()):
            (folder / str(vertex)).mkdir()
            context.node_config["state-dir"] = str(folder / str(vertex))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "wire-noise" in record.getMessage()]


def test_the_loss_is_logged_once_and_whether_the_noise_protects(ring: nx.Graph, tmp_path: Path, caplog) -> None:
    logging.getLogger("flwr").propagate = True
    caplog.set_level(logging.INFO, "flwr")
    joined(STRATEGIES["float32"](ring, wire_noise="gaussian(clip=9, multiplier=2)"), InProcessGrid(APP, 4, {}), 5)
    assert lines(caplog) == [
        "wire-noise: for all data of a node, epsilon = 4.377 at delta = 1e-05, with at most 4 messages of logits",
        "wire-noise: on 4 of 4 nodes it follows from the run's seed, and protects nothing (with a state-dir, a "
        "device draws its own)",
    ]
    caplog.clear()
    joined(STRATEGIES["float32"](ring), Devices(tmp_path))
    assert len(lines(caplog)) == 1
    caplog.clear()
    joined(STRATEGIES["float32"](ring, wire_noise="none"), InProcessGrid(APP, 4, {}))
    assert lines(caplog) == []


def test_a_server_that_forgot_what_it_asked_for_is_told(ring: nx.Graph, tmp_path: Path) -> None:
    """It was killed in a round that it never finished."""
    grid = Devices(tmp_path)
    first = STRATEGIES["float32"](ring)
    network = joined(first, grid, rounds=3)
    assert network.noised_messages.tolist() == [2] * 4
    saved = network.state_dict() | {"noised-messages": np.array([1, 1, 5, 1])}
    again = STRATEGIES["float32"](ring).network(grid)
    again.greeting = first.network(grid).greeting
    again.join()
    again.load_state_dict(saved)
    assert again.noised_messages.tolist() == [2, 2, 5, 2]


@pytest.mark.parametrize("cls", [NeighborKD, DDist, MultiHead])
def test_wrong_noise_is_one_sentence(cls: type[DistillationStrategy], ring: nx.Graph) -> None:
    with pytest.raises(InputError, match="wire-noise 'gaussian' needs the argument multiplier"):
        cls(ring, wire_noise="gaussian(clip=1)")
