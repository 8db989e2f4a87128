"""One node sends arbitrary data: the others' run continues, and the only effect is a clear warning."""

from __future__ import annotations

import logging
import random
import warnings
from collections import Counter
from logging import WARNING

import hostility
import networkx as nx
import numpy as np
import pytest
import torch
from conftest import DelayedGrid, FaultyGrid, build_same_model_node
from flwr.app import ArrayRecord, Message, RecordDict

from flower_kd import wire
from flower_kd.clients import make_client_app
from flower_kd.errors import InputError
from flower_kd.protocol import HELLO, JOIN, Hello
from flower_kd.strategies import DSGD, DDist, FedAvg, NeighborKD, Silo, inbox
from flower_kd.wire import codecs

SCHEDULE = {"local_steps": 2, "exchange_every": 1}
STRATEGIES = [
    lambda graph: NeighborKD(graph, temperature=0.5, **SCHEDULE),
    lambda graph: NeighborKD(graph, pooling="mean-logits", wire="float16", exchange_rows=8, **SCHEDULE),
    lambda graph: NeighborKD(graph, pooling="pairwise", dissimilarity="msed", wire="uint8", **SCHEDULE),
    lambda graph: NeighborKD(graph, pooling="class-share", wire="labels", wire_coding="delta", **SCHEDULE),
    lambda graph: NeighborKD(graph, wire="simplex(bits=2)", wire_coding="entropy", logit_adjustment=1.0, **SCHEDULE),
    lambda graph: DDist(graph, temperature=0.5, **SCHEDULE),
    lambda graph: DDist(graph, consensus="tracking", wire="uint8", local_steps=2),
    lambda graph: DSGD(graph, **SCHEDULE),
    lambda graph: FedAvg(graph, local_steps=2),
    lambda graph: DSGD(graph, compression="top-k", **SCHEDULE),
    lambda graph: FedAvg(graph, compression="uint8", local_steps=2),
    lambda graph: Silo(graph, local_steps=2),
]
RECORDS = [
    (wire.encode(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), name), name) for name in wire.names()
] + [(wire.encode_weights({"a": torch.ones(3, 2), "b": torch.ones(4), "n": torch.tensor(3)}), "weights")]


def a_sentence(error: Exception) -> str:
    """Return an error's text if it is one line that a terminal can show."""
    text = str(error)
    assert text.isprintable(), text
    assert 10 < len(text) < 1000, text
    return text


def decode_mutated(count: int) -> Counter[str]:
    """Decode mutated records, and count the outcomes."""
    found: Counter[str] = Counter()
    for seed in range(count):
        rng = random.Random(seed)
        record, kind = rng.choice(RECORDS)
        mutated = hostility.arrays(rng, record)
        try:
            if kind == "weights":
                assert wire.decode_weights(mutated, wire.layout(record)).keys() == record.keys()
            else:
                decoded = wire.decode(mutated, (3, 4), kind)
                assert decoded.dtype == torch.float32
                assert decoded.abs().max() <= 1.01 * wire.LARGEST
            found["decoded"] += 1
        except InputError as error:
            found[a_sentence(error).split(" ")[0]] += 1
    return found


def read_mutated_hellos(count: int) -> Counter[str]:
    """Read mutated answers to the handshake, and count the outcomes."""
    honest = Hello(
        vertex=2,
        name="bob",
        partitions=4,
        classes=10,
        model="mlp",
        parameters=5000,
        pruned=100,
        mask="cd" * 32,
        weights_bytes=20_000,
        stored_bytes=21_000,
        reference_rows=400,
        fingerprint="ab" * 32,
        class_counts=[7] * 10,
    )
    FaultyGrid(make_client_app(build_same_model_node), 1, {})  # sets up the sender for Flower
    found: Counter[str] = Counter()
    for seed in range(count):
        rng = random.Random(seed)
        asked = Message(RecordDict(), dst_node_id=7, message_type=JOIN)
        answer = Message(RecordDict({HELLO: hostility.config(rng, honest.to_record())}), reply_to=asked)
        try:
            hello = inbox.hello(asked, answer)
            assert all(type(getattr(hello, name)) is type(getattr(honest, name)) for name in vars(honest))
            assert hello.name.isprintable()
            assert hello.error.isprintable()
            found["read"] += 1
        except InputError as error:
            a_sentence(error)
            found["refused"] += 1
    return found


class Hostile:
    """Changes most replies of one node after the handshake; twice the node returns under another id."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.vertex = self.rng.randrange(4)

    def __call__(self, vertex: int, reply: Message) -> Message | None:
        if vertex != self.vertex or reply.metadata.message_type == JOIN or self.rng.random() < 0.2:
            return reply
        return hostility.reply(self.rng, reply)


def hostile_run(seed: int) -> tuple[str, int]:
    """Run a strategy with one hostile node, check the others' figures, and say what ran and what was refused."""
    make = STRATEGIES[seed % len(STRATEGIES)]
    strategy, hostile = make(nx.cycle_graph(4)), Hostile(seed)
    faulty = FaultyGrid(make_client_app(build_same_model_node), 4, {})
    faulty.interfere = hostile
    polled = seed // len(STRATEGIES) % 2
    grid = DelayedGrid(faulty, lambda vertex, message: 2.0) if polled else faulty
    network = strategy.network(grid)
    if isinstance(grid, DelayedGrid):
        grid.watched(network)
    weights = {"weight": torch.zeros(3, 6), "bias": torch.zeros(3)} if strategy.same_model else {}
    strategy.start(network, ArrayRecord(weights), num_rounds=4, timeout=100.0)
    for vertex in set(range(4)) - {hostile.vertex}:
        part = network.participation[vertex]
        assert part.taken == part.due, (seed, vertex, part.reasons)
        assert 0 <= network.metrics[4, vertex].values["test-accuracy"] <= 1
    assert all(np.isfinite(list(kept.values.values())).all() for kept in network.metrics.values())
    refused = network.participation[hostile.vertex].reasons
    assert all(why.isprintable() and len(why) < 1000 for why in refused)
    return type(strategy).__name__, sum(refused.values())


@pytest.fixture
def no_warning():
    """Fail on what numpy or torch would print."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_mutated_records_are_refused_in_a_sentence(no_warning) -> None:
    found = decode_mutated(600)
    assert found["decoded"] > 10
    assert sum(found.values()) - found["decoded"] > 300


def test_mutated_hellos_are_refused_in_a_sentence(no_warning) -> None:
    found = read_mutated_hellos(400)
    assert found["read"] > 10
    assert found["refused"] > 200


@pytest.mark.parametrize("seed", range(2 * len(STRATEGIES)))
def test_the_others_run_continues(seed: int, no_warning, caplog) -> None:
    logging.getLogger("flwr").propagate = True
    with caplog.at_level(WARNING):
        hostile_run(seed)
    assert all(
        record.getMessage().isprintable() for record in caplog.records if "continues without" in record.getMessage()
    )


class Shy(codecs.Float32):
    """A codec that fails on what one node sends."""

    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        if arrays["rows"][0, 0] == 77:
            raise KeyError("seventy-seven")
        return super().decode(arrays, shape)


@pytest.mark.parametrize(
    ("sent", "codec", "why"),
    [
        (
            wire.encode(np.ones((24, 3)), "float16"),
            codecs.Float32(),
            "rows that are not in wire format 'mine': array 'rows' has dtype 'float16' where 'float32' was expected",
        ),
        (
            wire.encode(np.full((24, 3), 77)),
            Shy(),
            "wire format 'mine' cannot decode the rows: KeyError: 'seventy-seven'",
        ),
    ],
    ids=["another format", "a codec that raises"],
)
def test_logits_that_the_codec_cannot_decode_exclude_their_sender_only(sent, codec, why: str, grid: FaultyGrid) -> None:
    def interfere(vertex: int, reply: Message) -> Message:
        if vertex == 2 and "logits" in reply.content:
            reply.content["logits"] = sent
        return reply

    grid.interfere = interfere
    strategy = NeighborKD(nx.cycle_graph(4), **SCHEDULE)
    strategy.wire = wire.WireFormat("mine", codec)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=2)
    assert [network.participation[vertex].taken for vertex in range(4)] == [4, 4, 1, 4]  # the last has no logits
    (refused,) = network.participation[2].reasons
    assert refused.startswith(why)


@pytest.mark.slow
def test_the_whole_count(no_warning) -> None:
    """10,000 records, 3,000 handshakes, 240 runs: see the counts with `pytest -m slow -s`."""
    print(decode_mutated(10_000))
    print(read_mutated_hellos(3_000))
    runs: Counter[str] = Counter()
    for seed in range(240):
        name, refused = hostile_run(seed)
        runs[name] += 1
        runs[f"{name}: replies refused"] += refused
    print(runs)
    assert runs["FedAvg: replies refused"] > 30
