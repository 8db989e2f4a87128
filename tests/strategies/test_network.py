"""Handshake and absent nodes: what the network says when nodes do not fit or fail."""

import logging

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import FaultyGrid, blobs, build_blob_node, build_same_model_node
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from flower_kd.clients import Node, make_client_app
from flower_kd.errors import InputError
from flower_kd.strategies import DSGD, DDist, FedAvg, GraphStrategy, NeighborKD, Silo
from flower_kd.wire import encode


def vertex_of(context: Context) -> int:
    return int(context.node_config["partition-id"])


def odd_reference(context: Context) -> Node:
    node = build_blob_node(context)
    if vertex_of(context) == 2:
        node.reference = node.reference.clone()
        node.reference[3, 1] += 1e-3
    return node


def odd_classes(context: Context) -> Node:
    node = build_blob_node(context)
    node.classes = 3 + (vertex_of(context) == 1)
    return node


def odd_rows(context: Context) -> Node:
    node = build_blob_node(context)
    if vertex_of(context) == 3:
        node.reference = node.reference[:-1]
    return node


def no_data(context: Context) -> Node:
    if vertex_of(context) == 2:
        raise InputError("dataset '/data/x' has no column 'image'")
    return build_blob_node(context)


def bug(context: Context) -> Node:
    raise RuntimeError("a bug in the user's code")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (odd_reference, r"node 2 has another reference set \(SHA-256\) than the others: \w{64} where they have \w{64}"),
        (odd_classes, "node 1 has another class count than the others: 4 where they have 3"),
        (odd_rows, "node 3 has another number of reference rows than the others: 23 where they have 24"),
        (no_data, "node 2 cannot take part: dataset '/data/x' has no column 'image'"),
        (bug, "failed in the handshake: .*a bug in the user's code"),
    ],
)
def test_nothing_trains_where_nodes_do_not_fit(build, words: str, ring: nx.Graph) -> None:
    grid = FaultyGrid(make_client_app(build), 4, {})
    sent = []
    grid.interfere = lambda vertex, reply: sent.append(reply.metadata.message_type) or reply
    with pytest.raises(InputError, match=words):
        NeighborKD(ring).start(grid, ArrayRecord(), num_rounds=1)
    assert set(sent) == {"query.join"}


def test_silo_asks_for_no_common_reference_set(ring: nx.Graph) -> None:
    result = Silo(ring, local_steps=2).start(FaultyGrid(make_client_app(odd_reference), 4, {}), num_rounds=1)
    assert 1 in result.evaluate_metrics_clientapp


@pytest.mark.parametrize("strategy", [DSGD, FedAvg])
def test_strategies_that_average_weights_ask_for_one_model(strategy, ring: nx.Graph, grid: FaultyGrid) -> None:
    with pytest.raises(InputError, match="has another number of parameters than the others"):
        strategy(ring).start(grid, ArrayRecord(), num_rounds=1)


def test_two_nodes_at_one_vertex(ring: nx.Graph, grid: FaultyGrid) -> None:
    list(grid.contexts.values())[3].node_config["partition-id"] = 1
    with pytest.raises(InputError, match="two nodes both say they are vertex 1"):
        Silo(ring).start(grid, num_rounds=1)


def test_a_vertex_outside_the_graph(ring: nx.Graph, grid: FaultyGrid) -> None:
    list(grid.contexts.values())[3].node_config["partition-id"] = 4
    with pytest.raises(InputError, match="partition-id=4, the graph has vertices 0 to 3"):
        Silo(ring).start(grid, num_rounds=1)


def test_too_few_nodes_are_named(grid: FaultyGrid) -> None:
    for context in grid.contexts.values():
        context.node_config["num-partitions"] = 6
    strategy = Silo(nx.cycle_graph(6))
    network = strategy.network(grid)
    network.connect_seconds = 0.1
    with pytest.raises(InputError, match=r"2 of 6 nodes did not join: 4, 5 \(4 nodes are connected\)"):
        strategy.start(network, num_rounds=1)


def named_node(context: Context) -> Node:
    """Return a blob node of a context that may have a name in place of a partition-id."""
    vertex = context.node_config.get("partition-id", 0)
    return build_blob_node(Context(1, 1, {"partition-id": vertex}, RecordDict(), {}))


def test_graphs_with_names_find_their_nodes_by_name() -> None:
    grid = FaultyGrid(make_client_app(named_node), 4, {})
    graph = nx.cycle_graph(4)
    nx.set_node_attributes(graph, dict(enumerate(["ann", "bob", "cyd", "dan"])), "name")
    contexts = list(grid.contexts.values())
    contexts[2].node_config["name"] = "eve"
    with pytest.raises(
        InputError, match="'eve' is no vertex of the graph, whose vertices are named ann, bob, cyd, dan"
    ):
        Silo(graph).start(grid, num_rounds=1)
    contexts[2].node_config["name"] = "dan"
    with pytest.raises(InputError, match="'dan' says partition-id=2, but its name is vertex 3"):
        Silo(graph).start(grid, num_rounds=1)
    for context, name in zip(contexts, ["dan", "cyd", "bob", "ann"], strict=True):
        context.node_config["name"] = name
        del context.node_config["partition-id"]
    strategy = Silo(graph, local_steps=1)
    network = strategy.network(grid)
    strategy.start(network, num_rounds=1)
    assert {vertex: hello.name for vertex, hello in network.hellos.items()} == {0: "ann", 1: "bob", 2: "cyd", 3: "dan"}
    assert [network.vertex(context.node_id) for context in contexts] == [3, 2, 1, 0]


def rubbish(kind: str, reply: Message) -> Message | None:
    """Return what a broken node sends instead of its reply to a train message."""
    if reply.metadata.message_type != "train":
        return reply
    content = RecordDict(dict(reply.content))
    key = "logits" if "logits" in content.array_records else "arrays"
    if kind == "lost":
        return None
    if kind == "error":
        # The SuperLink's own errors come from the SuperLink: only the message they answer tells whose they are.
        broken = Message(RecordDict(), dst_node_id=SUPERLINK_NODE_ID, message_type="train")
        broken.metadata.__dict__["_message_id"] = reply.metadata.reply_to_message_id
        return Message(Error(0, "<class 'OSError'>:<'disk full'>"), reply_to=broken)
    if kind == "nan":
        content[key] = ArrayRecord({k: Array(np.full(a.shape, np.nan, np.float32)) for k, a in content[key].items()})
    elif kind == "shape":
        content[key] = ArrayRecord({k: Array(np.zeros((2, 2), np.float32)) for k in content[key]})
    elif kind == "nothing":
        del content[key]
    elif kind == "no metrics":
        del content["metrics"]
    reply.content = content
    return reply


KINDS = {
    "lost": "no reply within",
    "error": "disk full",
    "nan": "NaN or Inf",
    "shape": "shape",
    "nothing": "its reply has no",
    "no metrics": "its reply has no metrics",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [NeighborKD, DDist, DSGD, FedAvg])
def test_the_round_goes_on_without_a_broken_node_and_says_so(cls, kind: str, ring: nx.Graph, caplog) -> None:
    weights = cls in (DSGD, FedAvg)
    grid = FaultyGrid(make_client_app(build_same_model_node if weights else build_blob_node), 4, {})
    seen = {"now": True}

    def interfere(vertex: int, reply: Message) -> Message | None:
        if vertex == 1 and seen["now"] and reply.metadata.message_type == "train":
            seen["now"] = False
            return rubbish(kind, reply)
        return reply

    grid.interfere = interfere
    start = ArrayRecord({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)}) if weights else ArrayRecord()
    logging.getLogger("flwr").propagate = True
    strategy = cls(ring, local_steps=2)
    network = strategy.network(grid)
    with caplog.at_level(logging.INFO):
        strategy.start(network, start, num_rounds=2, timeout=1.0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([w for w in warnings if w.startswith("round 1 goes on without node 1: ")]) == 1
    assert KINDS[kind] in "".join(warnings)
    parts = network.participation
    assert [(parts[vertex].due, parts[vertex].taken) for vertex in range(4)] == [(2, 2), (2, 1), (2, 2), (2, 2)]
    assert list(parts[1].reasons.values()) == [1]
    assert KINDS[kind] in next(iter(parts[1].reasons))
    assert parts[0].reasons == {}
    accuracy = {vertex: metrics for (r, vertex), metrics in network.metrics.items() if r == 2}
    assert set(accuracy) == {0, 1, 2, 3}  # welcomed back
    assert all(np.isfinite(m.values["test-loss"]) for m in accuracy.values())


def test_a_node_started_again_under_a_new_id_is_welcomed_back(ring: nx.Graph, grid: FaultyGrid) -> None:
    old = list(grid.contexts)[2]
    state = {"gone": False}

    def interfere(vertex: int, reply: Message) -> Message | None:
        if vertex == 2 and reply.metadata.message_type == "train" and not state["gone"]:
            state["gone"] = True
            context = grid.contexts.pop(old)
            context.node_id = 4242
            grid.contexts[4242] = context
            return None
        return reply

    grid.interfere = interfere
    original = grid._call

    def call(message: Message) -> Message:
        if message.metadata.dst_node_id not in grid.contexts:
            return Message(Error(1, "node is unavailable"), reply_to=message)
        return original(message)

    grid._call = call
    strategy: GraphStrategy = NeighborKD(ring, local_steps=2)
    network = strategy.network(_ById(grid))
    strategy.start(network, ArrayRecord(), num_rounds=3, timeout=1.0)
    assert network.node_id(2) == 4242
    assert (3, 2) in network.metrics
    assert "test-accuracy" in network.metrics[3, 2].values


class _ById:
    """A grid that drops replies from ids it no longer knows, as a SuperLink does."""

    def __init__(self, grid: FaultyGrid) -> None:
        self.grid = grid

    def get_node_ids(self) -> list[int]:
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(number)
            reply = self.grid._call(message)
            node = message.metadata.dst_node_id
            if reply.has_error() or self.grid.interfere is None:
                replies.append(reply)
                continue
            vertex = int(self.grid.contexts[node].node_config["partition-id"])
            changed = self.grid.interfere(vertex, reply)
            if changed is not None:
                replies.append(changed)
        return replies


def test_the_reference_fingerprint_is_that_of_the_rows() -> None:
    assert not torch.equal(blobs(1000, 24)[0], blobs(1001, 24)[0])
    assert encode(blobs(1000, 24)[0])["rows"].shape == (24, 6)


def test_where_nobody_answers_the_run_ends_and_says_why(ring: nx.Graph, grid: FaultyGrid) -> None:
    grid.interfere = lambda vertex, reply: rubbish("error", reply)
    with pytest.raises(InputError, match=r"no node answered in round 1: it failed with .*disk full"):
        NeighborKD(ring, local_steps=2).start(grid, ArrayRecord(), num_rounds=2)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"accuracy": float("nan"), "loss": 1.0}, "its metric 'accuracy' is no finite number"),
        ({"accuracy": [0.1, 0.2], "loss": 1.0}, "its metric 'accuracy' is no finite number"),
        ({"loss": 1.0}, "its metrics lack 'accuracy'"),
    ],
)
def test_rubbish_metrics_leave_a_node_out(metrics: dict, words: str, ring: nx.Graph, grid: FaultyGrid, caplog) -> None:
    def interfere(vertex: int, reply: Message) -> Message:
        if vertex == 2 and reply.metadata.message_type == "evaluate":
            reply.content = RecordDict({"metrics": MetricRecord(metrics)})
        return reply

    grid.interfere = interfere
    logging.getLogger("flwr").propagate = True
    with caplog.at_level(logging.WARNING):
        result = Silo(ring, local_steps=2).start(grid, num_rounds=2)
    assert result.evaluate_metrics_clientapp[2]["vertices"] == [0, 1, 3]
    assert f"round 2 goes on without node 2: {words}" in caplog.text


def test_another_number_of_partitions_is_refused(ring: nx.Graph, grid: FaultyGrid) -> None:
    list(grid.contexts.values())[1].node_config["num-partitions"] = 5
    with pytest.raises(InputError, match="says num-partitions=5, but the graph has 4 vertices"):
        Silo(ring).start(grid, num_rounds=1)


def test_initial_weights_are_sent_again_to_a_node_that_did_not_answer(same_model_grid: FaultyGrid) -> None:
    lost = {"once": True}

    def interfere(vertex: int, reply: Message) -> Message | None:
        if vertex == 1 and reply.metadata.message_type == "train" and lost.pop("once", False):
            return None
        return reply

    same_model_grid.interfere = interfere
    strategy = DSGD(nx.cycle_graph(4), local_steps=2)
    start = ArrayRecord({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)})
    strategy.start(same_model_grid, start, num_rounds=1, timeout=1.0)
    assert set(strategy._initial) == {1}
    assert "arrays" in strategy._down(1)
