"""Handshake and absent nodes: how mismatches and failures are reported."""

import hashlib
import logging
import re

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import DelayedGrid, FaultyGrid, blobs, build_blob_node, build_same_model_node, replace_evaluation
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from flower_kd.clients import Node, make_client_app
from flower_kd.clients.state import LiveState
from flower_kd.errors import InputError
from flower_kd.protocol import Hello
from flower_kd.strategies import DSGD, DDist, FedAvg, GraphStrategy, NeighborKD, Silo


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
    if vertex_of(context) == 1:
        node.classes = 4
        node.model = torch.nn.Linear(6, 4)
        node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.1)
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


def nothing(context: Context) -> None:
    build_blob_node(context)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (odd_reference, r"node 2 has a different reference set \(SHA-256\): \w{64}, while the others have \w{64}"),
        (odd_classes, "node 1 has a different class count: 4, while the others have 3"),
        (odd_rows, "node 3 has a different number of reference rows: 23, while the others have 24"),
        (no_data, "node 2 cannot take part: dataset '/data/x' has no column 'image'"),
        (
            bug,
            r"node 0 cannot take part: RuntimeError: a bug in the user's code \(strategies/test_network.py, line \d+",
        ),
        (nothing, "node 0 cannot take part: build_node returned NoneType, but must return a flower_kd.Node"),
    ],
)
def test_nothing_trains_where_nodes_do_not_fit(build, words: str, ring: nx.Graph) -> None:
    grid = FaultyGrid(make_client_app(build), 4, {})
    sent = []
    grid.interfere = lambda vertex, reply: sent.append(reply.metadata.message_type) or reply
    with pytest.raises(InputError, match=words):
        NeighborKD(ring).start(grid, ArrayRecord(), num_rounds=1)
    assert set(sent) == {"query.join"}


class Broken(torch.nn.Linear):
    """Fails in training, which the handshake does not do."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise KeyError("layer")
        return super().forward(inputs)


def broken(context: Context) -> Node:
    node = build_blob_node(context)
    if vertex_of(context) == 2:
        node.model = Broken(6, 3)
        node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.1)
    return node


def test_code_that_fails_later_is_named_with_its_place(ring: nx.Graph, caplog) -> None:
    logging.getLogger("flwr").propagate = True
    with caplog.at_level(logging.WARNING):
        NeighborKD(ring, local_steps=2).start(FaultyGrid(make_client_app(broken), 4, {}), num_rounds=2)
    [warning] = [record.getMessage() for record in caplog.records]
    line = Broken.forward.__code__.co_firstlineno + 2
    place = f"(strategies/test_network.py, line {line}, in forward)"
    assert warning == f"round 1 continues without node 2: it failed: KeyError: 'layer' {place}"


def test_silo_asks_for_no_common_reference_set(ring: nx.Graph) -> None:
    result = Silo(ring, local_steps=2).start(FaultyGrid(make_client_app(odd_reference), 4, {}), num_rounds=1)
    assert 1 in result.evaluate_metrics_clientapp


@pytest.mark.parametrize("strategy", [DSGD, FedAvg])
def test_strategies_that_average_weights_ask_for_one_model(strategy, ring: nx.Graph, grid: FaultyGrid) -> None:
    with pytest.raises(InputError, match="has a different number of parameters"):
        strategy(ring).start(grid, ArrayRecord(), num_rounds=1)


def test_two_nodes_at_one_vertex(ring: nx.Graph, grid: FaultyGrid) -> None:
    list(grid.contexts.values())[3].node_config["partition-id"] = 1
    with pytest.raises(InputError, match="two nodes both claim vertex 1"):
        Silo(ring).start(grid, num_rounds=1)


def test_a_vertex_outside_the_graph(ring: nx.Graph, grid: FaultyGrid) -> None:
    list(grid.contexts.values())[3].node_config["partition-id"] = 4
    with pytest.raises(InputError, match="partition-id=4, but the graph has vertices 0 to 3"):
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
        InputError, match="'eve' is not a vertex of the graph, whose vertices are named ann, bob, cyd, dan"
    ):
        Silo(graph).start(grid, num_rounds=1)
    contexts[2].node_config["name"] = "dan"
    with pytest.raises(InputError, match="'dan' reports partition-id=2, but its name is that of vertex 3"):
        Silo(graph).start(grid, num_rounds=1)
    for context, name in zip(contexts, ["dan", "cyd", "bob", "ann"], strict=True):
        context.node_config["name"] = name
        del context.node_config["partition-id"]
    strategy = Silo(graph, local_steps=1)
    network = strategy.network(grid)
    strategy.start(network, num_rounds=1)
    assert {vertex: hello.name for vertex, hello in network.hellos.items()} == {0: "ann", 1: "bob", 2: "cyd", 3: "dan"}
    assert [network.vertex(context.node_id) for context in contexts] == [3, 2, 1, 0]


def broken_reply(kind: str, reply: Message) -> Message | None:
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
    "lost": "no reply in time",
    "error": "disk full",
    "nan": "NaN or Inf",
    "shape": "shape",
    "nothing": "its reply has no",
    "no metrics": "its reply has no metrics",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [NeighborKD, DDist, DSGD, FedAvg])
def test_the_round_continues_without_a_broken_node_and_says_so(cls, kind: str, ring: nx.Graph, caplog) -> None:
    weights = cls in (DSGD, FedAvg)
    grid = FaultyGrid(make_client_app(build_same_model_node if weights else build_blob_node), 4, {})
    seen = {"now": True}

    def interfere(vertex: int, reply: Message) -> Message | None:
        if vertex == 1 and seen["now"] and reply.metadata.message_type == "train":
            seen["now"] = False
            return broken_reply(kind, reply)
        return reply

    grid.interfere = interfere
    start = ArrayRecord({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)}) if weights else ArrayRecord()
    logging.getLogger("flwr").propagate = True
    strategy = cls(ring, local_steps=2)
    network = strategy.network(grid)
    with caplog.at_level(logging.INFO):
        strategy.start(network, start, num_rounds=2, timeout=1.0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([w for w in warnings if w.startswith("round 1 continues without node 1: ")]) == 1
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
    strategy: GraphStrategy = NeighborKD(ring, local_steps=2)
    delayed = DelayedGrid(grid)
    network = delayed.watched(strategy.network(delayed))
    strategy.start(network, ArrayRecord(), num_rounds=3, timeout=1.0)
    assert network.node_id(2) == 4242
    assert (3, 2) in network.metrics
    assert "test-accuracy" in network.metrics[3, 2].values


def test_a_node_that_is_back_before_it_is_missed_gets_its_place_later(
    ring: nx.Graph, grid: FaultyGrid, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked to join, as another node is absent, while its old id still counts."""
    logging.getLogger("flwr").propagate = True
    _, _, old, _ = grid.contexts
    trained: list[int] = []

    def interfere(vertex: int, reply: Message) -> Message | None:
        if reply.metadata.message_type != "train":
            return reply
        if vertex == 2:
            trained.append(reply.metadata.src_node_id)
            if len(trained) == 2:  # its old id answers for the last time
                grid.contexts[4242] = Context(1, 4242, grid.contexts[old].node_config, LiveState(), {})
            if len(trained) == 3:
                del grid.contexts[old]
                return None
        return None if vertex == 0 else reply

    grid.interfere = interfere
    strategy: GraphStrategy = NeighborKD(ring, local_steps=2)
    delayed = DelayedGrid(grid)
    network = delayed.watched(strategy.network(delayed))
    strategy.start(network, ArrayRecord(), num_rounds=7, timeout=1.0)
    assert network.node_id(2) == 4242
    assert "train-loss" in network.metrics[7, 2].values
    assert trained == [old, old, old, *[4242] * (len(trained) - 3)]
    refused = [record for record in caplog.records if "both claim vertex 2" in record.getMessage()]
    assert len(refused) == 1


@pytest.mark.parametrize("evaluate_every", [1, 5])  # it comes back before an evaluation, or before training
@pytest.mark.parametrize("keeps_state", [False, True])
def test_a_node_that_lost_its_weights_is_sent_those_it_mixed_last(
    keeps_state: bool, evaluate_every: int, ring: nx.Graph, same_model_grid: FaultyGrid
) -> None:
    grid, old = same_model_grid, list(same_model_grid.contexts)[2]
    original, sent = grid._call, []
    strategy = DSGD(ring, local_steps=2, evaluate_every=evaluate_every)
    trained, rounds = [], []

    def call(message: Message) -> Message:
        if message.metadata.dst_node_id not in grid.contexts:
            return Message(Error(1, "node is unavailable"), reply_to=message)
        if message.metadata.dst_node_id == 4242:
            sent.append(message.content.array_records.get("arrays"))
            rounds.append(message.content["config"].get("server-round", 0))
        return original(message)

    def interfere(vertex: int, reply: Message) -> Message | None:
        if vertex != 2 or reply.metadata.message_type != "train":
            return reply
        trained.append(reply.content.array_records["arrays"])
        if len(trained) != 2:
            return reply
        context = grid.contexts.pop(old)
        state = context.state if keeps_state else LiveState()
        grid.contexts[4242] = Context(1, 4242, context.node_config, state, {})
        return None

    grid._call, grid.interfere = call, interfere
    delayed = DelayedGrid(grid)
    network = delayed.watched(strategy.network(delayed))
    mixed = []
    absorb = strategy.absorb
    strategy.absorb = lambda replies: (absorb(replies), mixed.append(strategy._mixed[2]))[0]
    strategy.start(network, ArrayRecord(), num_rounds=4, timeout=1.0)
    assert network.node_id(2) == 4242
    assert network.hellos[2].fresh != keeps_state
    assert rounds[0] == 2  # which its handshake says, so that it restores what it had then
    _, *messages = sent  # after the handshake
    if keeps_state and evaluate_every == 1:  # it got them with the first evaluation, and keeps training from them
        assert messages[0] is None
    else:
        assert np.array_equal(messages[0]["weight"].numpy(), mixed[0]["weight"].numpy())


def test_a_node_that_lost_the_weights_it_was_given_gets_them_again(ring: nx.Graph) -> None:
    strategy = NeighborKD(ring, local_steps=2)
    given = ArrayRecord({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)})
    strategy.start(FaultyGrid(make_client_app(build_same_model_node), 4, {}), given, num_rounds=1)
    assert "arrays" not in strategy._records_for(1)
    strategy.node_returned(1, Hello(vertex=1, fresh=False))
    assert "arrays" not in strategy._records_for(1)
    strategy.node_returned(1, Hello(vertex=1))
    assert strategy._records_for(1)["arrays"] == given


def test_the_reference_fingerprint_is_that_of_the_rows(ring: nx.Graph) -> None:
    """It is computed in the handshake if a node states none; shuffled rows are another reference set."""

    def hellos(build) -> list[str]:
        network = Silo(ring).network(FaultyGrid(make_client_app(build), 4, {}))
        return [hello.fingerprint for _, hello in sorted(network.join().items())]

    def turned(context: Context) -> Node:
        node = build_blob_node(context)
        node.reference = node.reference.flip(0)
        return node

    def named(context: Context) -> Node:
        node = build_blob_node(context)
        node.fingerprint = "known already"
        return node

    expected = hashlib.sha256(b"(24, 6) torch.float32" + blobs(1000, 24)[0].numpy().tobytes()).hexdigest()
    assert hellos(build_blob_node) == [expected] * 4
    assert len({expected, *hellos(turned)}) == 2
    assert hellos(named) == ["known already"] * 4


def test_the_run_ends_with_the_reason_if_no_node_answers(ring: nx.Graph, grid: FaultyGrid) -> None:
    grid.interfere = lambda vertex, reply: broken_reply("error", reply)
    with pytest.raises(
        InputError, match=r"no node took part in 3 exchanges in a row, .* round 3; .*OSError: disk full"
    ):
        NeighborKD(ring, local_steps=2).start(grid, ArrayRecord(), num_rounds=9)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"accuracy": float("nan"), "loss": 1.0}, "'accuracy' = nan in its report should be a finite number"),
        ({"accuracy": [0.1, 0.2], "loss": 1.0}, "'accuracy' = [0.1, 0.2] in its report should be a valid number"),
        ({"accuracy": 5.0}, "'accuracy' = 5.0 in its report should be less than or equal to 1"),
        ({"accuracy": -1}, "'accuracy' = -1 in its report should be greater than or equal to 0"),
        ({"accuracy": 1e200}, "'accuracy' = 1e+200 in its report should be less than or equal to"),
        ({"accuracy": 0.5, "loss": -0.1}, "'loss' = -0.1 in its report should be greater than or equal to 0"),
        ({"accuracy": 0.5, "num-examples": 0}, "'num-examples' = 0 in its report should be greater"),
        ({"accuracy": 0.5, "num-examples": 2**62}, "'num-examples' = 4611686018427387904 in its report should be less"),
        ({"accuracy": 0.5, "num-examples": 7.0}, "'num-examples' = 7.0 in its report should be a valid integer"),
        ({"accuracy": 0.5, "validation-accuracy": 2.0}, "'validation-accuracy' = 2.0 in its report should be less"),
        ({"accuracy": 0.5, "validation-loss": -1.0}, "'validation-loss' = -1.0 in its report should be greater"),
        ({"accuracy": 0.5, "round": 3}, "'round' in its report is a reserved name"),
        ({"accuracy": 0.5, "vertex": 3}, "'vertex' in its report is a reserved name"),
        ({"accuracy": 0.5, "test-x": 3}, "'test-x' in its report is a reserved name"),
        ({"accuracy": 0.5, "a b": 3}, "'a b' = 'a b' in its report should match pattern"),
        ({"accuracy": 0.5} | {f"m{i}": 0.0 for i in range(20_000)}, "its report has too many entries"),
        ({"accuracy": 0.5, "huge": 10**30}, "'huge' = 1000000000000000000000000000000 in its report should fit"),
        ({"loss": 1.0}, "its report lacks 'accuracy'"),
    ],
)
def test_metrics_out_of_range_leave_a_node_out(
    metrics: dict, words: str, ring: nx.Graph, grid: FaultyGrid, caplog
) -> None:
    def interfere(vertex: int, reply: Message) -> Message:
        if vertex == 2:
            replace_evaluation(reply, lambda _: metrics)
        return reply

    grid.interfere = interfere
    logging.getLogger("flwr").propagate = True
    with caplog.at_level(logging.WARNING):
        result = Silo(ring, local_steps=2).start(grid, num_rounds=2)
    assert result.evaluate_metrics_clientapp[2]["vertices"] == [0, 1, 3]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1  # in two rounds
    assert warnings[0].startswith(f"round 1 continues without node 2: {words}")


def test_another_number_of_partitions_is_refused(ring: nx.Graph, grid: FaultyGrid) -> None:
    list(grid.contexts.values())[1].node_config["num-partitions"] = 5
    with pytest.raises(InputError, match="reports num-partitions=5, but the graph has 4 vertices"):
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
    assert "arrays" in strategy._records_for(1)


BAD_HELLOS = {
    "text": ({"vertex": "1"}, "'vertex' = '1' in its handshake should be a valid integer"),
    "list": ({"vertex": [1]}, "'vertex' = [1] in its handshake should be a valid integer"),
    "float": ({"classes": 3.0}, "'classes' = 3.0 in its handshake should be a valid integer"),
    "bool": ({"partitions": True}, "'partitions' = True in its handshake should be a valid integer"),
    "nan": ({"reference-rows": float("nan")}, "'reference_rows' = nan in its handshake should be a valid integer"),
    "rows": ({"reference-rows": 10**9}, "'reference_rows' = 1000000000 in its handshake should be less than or equal"),
    "classes": ({"classes": 10**9}, "'classes' = 1000000000 in its handshake should be less than or equal"),
    "minus": ({"parameters": -1}, "'parameters' = -1 in its handshake should be greater than or equal to 0"),
    "name": ({"name": "a\nb"}, "'name' = 'a\\nb' in its handshake should be printable text"),
    "long": ({"model": "x" * 3000}, "should have at most 2000 characters"),
    "bytes": ({"fingerprint": b"ab"}, "'fingerprint' = b'ab' in its handshake should be a valid string"),
}


@pytest.mark.parametrize("kind", BAD_HELLOS)
def test_a_bad_hello_ends_the_handshake_in_one_sentence(kind: str, ring: nx.Graph, grid: FaultyGrid) -> None:
    fields, words = BAD_HELLOS[kind]

    def interfere(vertex: int, reply: Message) -> Message:
        if vertex == 1:
            reply.content["hello"].update(fields)
        return reply

    grid.interfere = interfere
    node = list(grid.contexts)[1]
    with pytest.raises(InputError, match=re.escape(f"the node with Flower's id {node}: ") + ".*" + re.escape(words)):
        NeighborKD(ring, local_steps=2).start(grid, ArrayRecord(), num_rounds=1)


def test_one_that_claims_other_sizes_is_named(ring: nx.Graph, grid: FaultyGrid) -> None:
    grid.interfere = lambda vertex, reply: (
        (vertex == 0 and reply.content["hello"].update({"reference-rows": 10**8})) or reply
    )
    with pytest.raises(InputError, match="node 0 has a different number of reference rows: 100000000"):
        DDist(ring, local_steps=2).start(grid, ArrayRecord(), num_rounds=1)


@pytest.mark.parametrize("polled", [False, True])
@pytest.mark.parametrize("kind", [*BAD_HELLOS, "taken", "error", "other sizes"])
def test_a_bad_hello_in_the_middle_of_a_run_is_not_used(
    kind: str, polled: bool, ring: nx.Graph, grid: FaultyGrid, caplog
) -> None:
    """Node 2 is gone after round 1; another node joins with an invalid Hello."""
    odd = {"taken": {"partition-id": 0}, "error": {"error": "x\n" * 9999}, "other sizes": {"classes": 7}}
    fields, words = BAD_HELLOS.get(kind, (odd.get(kind, {}), ""))

    def interfere(vertex: int, reply: Message) -> Message | None:
        if reply.metadata.src_node_id == 4242 and "hello" in reply.content:
            reply.content["hello"].update(fields)
        if vertex == 2 and reply.metadata.message_type == "train":
            stranger = Context(1, 4242, dict(grid.contexts[next(iter(grid.contexts))].node_config), LiveState(), {})
            stranger.node_config["partition-id"] = 0 if kind == "taken" else 2
            grid.contexts.setdefault(4242, stranger)
            return None
        return reply

    grid.interfere = interfere
    delayed = DelayedGrid(grid)
    strategy = NeighborKD(ring, local_steps=2)
    network = strategy.network(delayed if polled else grid)
    if polled:
        delayed.watched(network)
    logging.getLogger("flwr").propagate = True
    with caplog.at_level(logging.WARNING):
        strategy.start(network, ArrayRecord(), num_rounds=4, timeout=50.0)
    warnings = [record.getMessage() for record in caplog.records]
    unused = [warning for warning in warnings if warning.startswith("a node that joined late is not used: ")]
    assert len(unused) == 1
    assert words in unused[0]
    assert unused[0].isprintable()
    assert len(unused[0]) < 700
    assert all("test-accuracy" in network.metrics[4, vertex].values for vertex in (0, 1, 3))


def test_a_second_reply_to_a_message_is_ignored(ring: nx.Graph, grid: FaultyGrid) -> None:
    class Twice(FaultyGrid):
        def stream(self, messages):
            for message, reply in super().stream(messages):
                yield message, reply
                if message.metadata.message_type != "query.join":
                    yield message, reply

    app = make_client_app(build_blob_node)
    figures = []
    for cls in (FaultyGrid, Twice):
        strategy = NeighborKD(ring, local_steps=2)
        network = strategy.network(cls(app, 4, {}))
        strategy.start(network, ArrayRecord(), num_rounds=2)
        figures.append({key: m.values | {"seconds": 0.0} for key, m in network.metrics.items()})
    assert figures[0] == figures[1]


def test_a_reply_that_flower_cannot_read_is_its_senders_error(ring: nx.Graph, grid: FaultyGrid, caplog) -> None:
    """Over HTTP, Flower deserializes replies on the server and raises if it cannot, all at once or one by one."""

    class Unreadable(DelayedGrid):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            if any(reply.metadata.message_type == "train" and self.vertex(reply) == 3 for reply in replies):
                raise ValueError("Unexpected set of `children`\n")
            return replies

        def vertex(self, reply):
            return int(self.grid.contexts[reply.metadata.src_node_id].node_config["partition-id"])

    delayed = Unreadable(grid, lambda vertex, message: 1.0 + vertex)
    strategy = NeighborKD(ring, local_steps=2)
    network = delayed.watched(strategy.network(delayed))
    strategy.start(network, ArrayRecord(), num_rounds=4, timeout=50.0)
    parts = network.participation
    assert parts[3].taken == 0
    assert any("a reply that cannot be read: Unexpected set" in why for why in parts[3].reasons)
    assert all(parts[vertex].taken >= 3 for vertex in (0, 1, 2))
    assert delayed.now < 150


@pytest.mark.parametrize("make", [NeighborKD, DDist])
@pytest.mark.parametrize("pooling", ["mean", "mean-logits", "pairwise"])
def test_huge_finite_logits_do_not_end_the_run(make, pooling: str, ring: nx.Graph, grid: FaultyGrid) -> None:
    def interfere(vertex: int, reply: Message) -> Message:
        if vertex == 1 and "logits" in reply.content:
            reply.content["logits"] = ArrayRecord({"rows": Array(np.full((24, 3), 3e38, np.float32))})
        return reply

    grid.interfere = interfere
    more = {"pooling": pooling} if make is NeighborKD else {}
    strategy = make(ring, temperature=0.5, local_steps=2, **more)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=3)
    assert network.participation[1].reasons == {"rows with a value of 3e+38 (allowed: -65504 to 65504)": 2}
    assert all(network.participation[vertex].taken == 3 for vertex in (0, 2, 3))
