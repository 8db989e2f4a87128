"""Symbols, entropy coding and deltas in whole runs."""

from dataclasses import replace

import networkx as nx
import pytest
import torch
from conftest import FaultyGrid, build_blob_node, recorded_grid, run_strategy
from flwr.app import ArrayRecord, Context, Message

from flower_kd import wire
from flower_kd.clients import Node, ShuffledBatches, make_client_app
from flower_kd.clients.state import LiveState
from flower_kd.errors import InputError
from flower_kd.strategies import DDist, NeighborKD, Silo
from flower_kd.strategies.network import Network

STRATEGIES = {
    "labels": lambda graph, **more: NeighborKD(graph, wire="labels", temperature=1.0, local_steps=2, **more),
    "few rows": lambda graph, **more: NeighborKD(
        graph, wire="simplex", temperature=1.0, exchange_rows=9, local_steps=6, exchange_every=2, **more
    ),
    "pairwise": lambda graph, **more: NeighborKD(graph, wire="uint8", pooling="pairwise", local_steps=2, **more),
    "d-dist": lambda graph, **more: DDist(graph, wire="labels", local_steps=2, **more),
    "adjusted": lambda graph, **more: NeighborKD(graph, wire="labels", logit_adjustment=1.0, local_steps=2, **more),
    "joint": lambda graph, **more: DDist(
        graph, wire="labels", exchange_rows=8, reference_batch=0, local_steps=3, exchange_every=1, **more
    ),
}
ROUNDS = 6


def run(name: str, coding: str, grid: FaultyGrid, rounds: int = ROUNDS) -> tuple[dict[str, float], Network]:
    """Return all figures but bytes and seconds, and the network."""
    strategy = STRATEGIES[name](nx.cycle_graph(4), wire_coding=coding)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=rounds)
    figures = {
        f"{server_round}/{vertex}/{name}": value
        for (server_round, vertex), metrics in network.metrics.items()
        for name, value in metrics.values.items()
        if name != "seconds" and not name.startswith("bytes-")
    }
    return figures, network


def logits_bytes(grid: FaultyGrid) -> list[list[int]]:
    """Return lists, by vertex, to which a run on the grid adds the bytes of each reply's rows."""
    sizes: list[list[int]] = [[] for _ in range(4)]
    before = grid.interfere

    def watch(vertex: int, reply: Message) -> Message | None:
        if reply.has_content() and "logits" in reply.content:
            sizes[vertex].append(sum(len(array.data) for array in reply.content["logits"].values()))
        return before(vertex, reply) if before else reply

    grid.interfere = watch
    return sizes


@pytest.mark.parametrize("name", STRATEGIES)
def test_codings_change_bytes_only(name: str, grid: FaultyGrid) -> None:
    runs = {coding: run(name, coding, grid) for coding in wire.CODINGS}
    assert runs["plain"][0] == runs["entropy"][0] == runs["delta"][0]
    up = {coding: network.traffic.shared.sum() for coding, (_, network) in runs.items()}
    assert up["delta"] < up["plain"] if name != "few rows" else up["delta"] <= up["plain"] + 2 * 4 * 3 * ROUNDS
    assert (runs["plain"][1].traffic.messages == runs["delta"][1].traffic.messages).all()


@pytest.mark.parametrize("name", ["adjusted", "few rows", "joint"])
def test_figures_and_bytes_do_not_depend_on_the_engine(name: str) -> None:
    app = make_client_app(build_blob_node)
    live, recorded = (
        run_strategy(STRATEGIES[name](nx.cycle_graph(4), wire_coding="delta"), grid)
        for grid in (FaultyGrid(app, 4, {}), recorded_grid(app, 4))
    )
    assert live == recorded


def test_a_correction_changes_what_nodes_send(grid: FaultyGrid) -> None:
    assert run("labels", "plain", grid)[0] != run("adjusted", "plain", grid)[0]


def test_only_the_first_exchange_is_sent_in_full(grid: FaultyGrid) -> None:
    sizes = logits_bytes(grid)
    run("labels", "delta", grid)
    assert all(max(later) <= first for first, *later in sizes)
    assert min(size for _, *later in sizes for size in later) < 9 < min(first for first, *_ in sizes)


def test_the_last_exchange_has_no_logits(grid: FaultyGrid) -> None:
    called = []

    class Watched(NeighborKD):
        def teach(self, rows, logits, present):
            called.append(self._exchange)
            return super().teach(rows, logits, present)

    sizes = logits_bytes(grid)
    strategy = Watched(nx.cycle_graph(4), local_steps=4, exchange_every=2)
    network = strategy.network(grid)
    strategy.start(network, num_rounds=2)
    assert [len(of_node) for of_node in sizes] == [3] * 4
    assert called == [0, 1, 2]
    assert (network.traffic.messages == 3).all()
    assert all(part.taken == part.due == 4 for part in network.participation.values())


def lost_once(vertex: int, number: int):
    """Return an interference that drops one reply with logits."""
    count = 0

    def interfere(sender: int, reply: Message) -> Message | None:
        nonlocal count
        if sender == vertex and "logits" in reply.content:
            count += 1
            return None if count == number else reply
        return reply

    return interfere


def corrupted_once(vertex: int, number: int):
    """Return an interference that changes a byte in one reply."""
    count = 0

    def interfere(sender: int, reply: Message) -> Message:
        nonlocal count
        if sender == vertex and "logits" in reply.content:
            count += 1
            if count == number:
                data = bytearray(reply.content["logits"]["rows"].data)
                data[2] ^= 1  # of the checksum
                reply.content["logits"]["rows"] = wire.as_coded(bytes(data))
        return reply

    return interfere


@pytest.mark.parametrize("fault", [lost_once, corrupted_once])
def test_a_node_whose_reply_was_not_used_sends_a_full_one_next(fault) -> None:
    def faulty() -> FaultyGrid:
        grid = FaultyGrid(make_client_app(build_blob_node), 4, {})
        grid.interfere = fault(1, 3)
        return grid

    grid = faulty()
    sizes = logits_bytes(grid)
    figures, network = run("labels", "delta", grid)
    assert figures == run("labels", "plain", faulty())[0]
    assert [network.participation[vertex].taken for vertex in range(4)] == [6, 5, 6, 6]
    assert sizes[1][3] == sizes[1][0] > sizes[1][4]
    (reason,) = network.participation[1].reasons
    if fault is corrupted_once:
        assert reason.startswith("rows that are not in wire format 'labels': their checksum is wrong")


def test_a_node_that_lost_its_state_sends_a_full_message(grid: FaultyGrid) -> None:
    forms = []

    def forget(vertex: int, reply: Message) -> Message:
        if vertex == 2 and reply.has_content() and "logits" in reply.content:
            forms.append(reply.content["logits"]["rows"].data[0])
            if len(forms) == 3:
                grid.contexts[reply.metadata.src_node_id].state = LiveState()
        return reply

    grid.interfere = forget
    _, network = run("labels", "delta", grid, rounds=10)
    assert forms[0] == forms[3] == 0
    assert any(forms)  # deltas
    assert [network.participation[vertex].taken for vertex in range(4)] == [10, 10, 9, 10]  # it was to join again


def build_one_class_node(context: Context) -> Node:
    node = build_blob_node(context)
    features = node.reference.shape[1]
    inputs, labels = torch.randn(8, features), torch.zeros(8, dtype=torch.int64)
    model = torch.nn.Linear(features, 1)
    return Node(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        private=ShuffledBatches(inputs, labels, batch_size=4, seed=0, vertex=0),
        reference=node.reference,
        test=[(inputs, labels)],
        classes=1,
    )


def test_one_class_is_refused_in_the_handshake() -> None:
    grid = FaultyGrid(make_client_app(build_one_class_node), 4, {})
    Silo(nx.cycle_graph(4), local_steps=1).start(grid, num_rounds=1)
    with pytest.raises(InputError, match=r"^node 0 cannot take part: models with 1 class cannot be distilled"):
        NeighborKD(nx.cycle_graph(4)).start(grid, num_rounds=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"wire_coding": "zip"}, "unknown wire_coding 'zip'"),
        ({"wire": "simplex(bits=0)"}, "bits = 0 must be at least 1"),
        ({"wire": "flower_kd.wire.codecs:Float32", "wire_coding": "best"}, "unknown wire_coding 'best'"),
    ],
)
def test_wire_formats_and_codings_are_checked_at_once(settings: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        NeighborKD(nx.cycle_graph(4), **settings)


def test_a_node_that_lacks_the_coding_says_so(grid: FaultyGrid) -> None:
    strategy = NeighborKD(nx.cycle_graph(4))
    network = strategy.network(grid)
    network.greeting = replace(network.greeting, wire_coding="of-the-future")
    with pytest.raises(InputError, match="cannot take part: unknown wire-coding 'of-the-future'"):
        strategy.start(network, num_rounds=1)
