"""The two-head client: what each phase trains, what travels once, and what happens where it does not."""

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, FEATURES, FaultyGrid, build_blob_node, recorded_grid, run_strategy
from flwr.app import ArrayRecord, Context, Message, RecordDict
from torch import nn

from flower_kd import TwoHeads, dissimilarity, topology, wire
from flower_kd.clients import Node, make_client_app
from flower_kd.clients.checks import check_parts
from flower_kd.errors import InputError
from flower_kd.protocol import ARRAYS, EVALUATION, LOGITS, METRICS, Hello
from flower_kd.seeding import torch_seeded
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import MultiHead

STEPS = {"local_steps": 4, "reference_batch": 8}
CASES: dict[str, Callable[[nx.Graph], MultiHead]] = {
    "reference": lambda graph: MultiHead(graph, exchange_rows=10, **STEPS),
    "reference, pairwise": lambda graph: MultiHead(
        graph, pooling="pairwise", dissimilarity="msed", frozen_backbone=True, **STEPS
    ),
    "reference, labels": lambda graph: MultiHead(graph, wire="labels", wire_coding="delta", pooling="median", **STEPS),
    "private": lambda graph: MultiHead(graph, teachers="private", **STEPS),
    "private, pairwise": lambda graph: MultiHead(
        graph, teachers="private", pooling="pairwise", dissimilarity="msed", local_rounds=2, **STEPS
    ),
    "private, batch statistics": lambda graph: MultiHead(
        graph, teachers="private", teacher_mode="train", pooling="mean-logits", **STEPS
    ),
    "private, own vote": lambda graph: MultiHead(
        graph, teachers="private", teacher_mode="train", pooling="median", **STEPS
    ),
    "private, mixing": lambda graph: MultiHead(
        graph, teachers="private", pooling_weights="mixing", pooling_self=True, **STEPS
    ),
    "reference, from another node each time": lambda graph: MultiHead(one_peer(), participation=0.75, **STEPS),
    "private, from another node each time": lambda graph: MultiHead(
        one_peer(), teachers="private", participation=0.75, message_loss=0.2, seed=1, **STEPS
    ),
}


def one_peer() -> topology.GraphSequence:
    return topology.sequence("one-peer-exponential", 4, exchanges=3)


def classifier(name: str) -> nn.Module:
    """Return a network of the width that its name says, with normalization and noise in training."""
    width = int(name.removeprefix("width-"))
    layers = [nn.Linear(FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, CLASSES)]
    return nn.Sequential(*layers)


def two_heads_node(context: Context) -> Node:
    """Return a blob node whose network has two heads, and one of two widths."""
    vertex = int(context.node_config["partition-id"])
    node, name = build_blob_node(context), f"width-{8 + 4 * (vertex % 2)}"
    with torch_seeded(vertex):
        model = TwoHeads(classifier(name), classes=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return Node(model, optimizer, node.private, node.reference, node.test, CLASSES, name=name, build_model=classifier)


@pytest.fixture
def app():
    return make_client_app(two_heads_node)


@cache
def run_alive(name: str) -> dict[str, float]:
    """Return the figures of a case with nodes that live on between messages."""
    return run_strategy(CASES[name](nx.cycle_graph(4)), InProcessGrid(make_client_app(two_heads_node), 4, {}))


@pytest.mark.parametrize("name", CASES)
def test_figures_do_not_depend_on_the_engine(name: str, app, ring: nx.Graph) -> None:
    """Nodes that live on, and nodes that are built anew for each message from what is kept, have the same figures."""
    live = run_alive(name)
    assert live == run_strategy(CASES[name](ring), recorded_grid(app, 4))
    assert any(value > 0 for key, value in live.items() if key.startswith("3/") and key.endswith("kd-loss"))


def test_kinds_of_teachers_differ() -> None:
    assert len({str(run_alive(name)) for name in CASES}) == len(CASES)


@pytest.mark.parametrize("teachers", ["reference", "private"])
def test_both_phases_by_hand(teachers: str) -> None:
    """Two nodes: plain loops over the same batches lead to the same weights."""
    settings = {"temperature": 3.0, "alpha": 0.3, "rho": 2.0, "dissimilarity": "js"}

    def build(context: Context) -> Node:
        node, vertex = build_blob_node(context), int(context.node_config["partition-id"])
        with torch_seeded(vertex):
            node.model = TwoHeads(nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES)), classes=3)
        node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.05, momentum=0.9)
        return node

    grid = InProcessGrid(make_client_app(build), 2, {})
    nodes = [build(context) for context in grid.contexts.values()]
    strategy = MultiHead(nx.path_graph(2), teachers=teachers, local_steps=3, reference_batch=0, **settings)
    strategy.start(grid, ArrayRecord(), num_rounds=2)

    def descend(node: Node, network: nn.Module, first: int, more: Callable[[torch.Tensor], Any]) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for inputs, labels in node.private.batches(first, 3):  # type: ignore[union-attr]
            optimizer.zero_grad()
            label_weight, distilled = more(inputs)
            (label_weight * F.cross_entropy(network(inputs), labels) + distilled).backward()
            optimizer.step()

    for node in nodes:
        descend(node, node.model.local, 0, lambda inputs: (1.0, 0.0))
    teacher_networks = [deepcopy(node.model.local).eval() for node in nodes]
    for vertex, node in enumerate(nodes):
        node.model.begin_distillation()
        student, teacher = node.model.distilled, teacher_networks[1 - vertex]

        def term(inputs: torch.Tensor, student=student, teacher=teacher, node=node) -> tuple[float, torch.Tensor]:
            rows = inputs if teachers == "private" else node.reference
            with torch.no_grad():
                q = (teacher(rows) / 3.0).log_softmax(-1)
            return 0.3, 0.7 * 2.0 * dissimilarity.js((student(rows) / 3.0).log_softmax(-1), q)

        descend(node, student, 3, term)
    for vertex, node in enumerate(nodes):
        found = grid.state(list(grid._vertex_of.values())[vertex])["flower-kd.model"].to_torch_state_dict()
        torch.testing.assert_close(dict(found), node.model.state_dict(), rtol=1e-4, atol=1e-5)
        assert found["distilling"]


@pytest.mark.parametrize(("teachers", "record"), [("reference", LOGITS), ("private", ARRAYS)])
def test_each_node_sends_once(teachers: str, record: str, app, ring: nx.Graph) -> None:
    grid, sent = FaultyGrid(app, 4, {}), []

    def watch(vertex: int, reply: Message) -> Message:
        sent.extend((vertex, name) for name in reply.content if name not in (METRICS, EVALUATION, "hello", "built"))
        return reply

    grid.interfere = watch
    strategy = MultiHead(ring, teachers=teachers, local_rounds=2, **STEPS)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=5)
    assert sorted(sent) == [(vertex, record) for vertex in range(4)]
    assert network.traffic.messages.tolist() == [1, 1, 1, 1]
    if teachers == "private":  # the network with head 1, and nothing of head 2
        for vertex in range(4):
            assert network.traffic.shared[vertex] == pytest.approx(network.hellos[vertex].weights_bytes, abs=20)
            assert network.hellos[vertex].weights_bytes < 4000
    down = network.traffic.down.copy()
    again = MultiHead(ring, teachers=teachers, local_rounds=2, **STEPS)
    shorter = again.network(FaultyGrid(app, 4, {}))
    again.start(shorter, ArrayRecord(), num_rounds=4)
    assert ((down - shorter.traffic.down) < 1500).all()  # a round more costs two orders


@pytest.mark.parametrize(("local_rounds", "hop"), [(1, 1), (2, 2)])
def test_teachers_are_those_of_the_exchange_in_which_nodes_send(local_rounds: int, hop: int, app) -> None:
    """One-peer exponential: node n hears n - 1 in the first exchange, n - 2 in the second."""
    strategy = MultiHead(one_peer(), teachers="private", local_rounds=local_rounds, **STEPS)
    run_strategy(strategy, InProcessGrid(app, 4, {}))
    assert [strategy._networks_for(vertex)[0] for vertex in range(4)] == [[(vertex - hop) % 4] for vertex in range(4)]


def test_the_last_round_of_head_1_is_evaluated(app, ring: nx.Graph) -> None:
    strategy = MultiHead(ring, local_rounds=3, evaluate_every=5, local_steps=2)
    result = strategy.start(InProcessGrid(app, 4, {}), ArrayRecord(), num_rounds=7)
    assert sorted(result.evaluate_metrics_clientapp) == [3, 5, 7]
    assert strategy.head_1_round == 3


def orders(strategy: MultiHead, app, num_rounds: int) -> list[dict[str, Any]]:
    """Return the orders that the first node gets."""
    grid, found = FaultyGrid(app, 4, {}), []
    call = grid._call

    def watch(message: Message) -> Message:
        if message.metadata.message_type == "train":
            found.append(dict(message.content["config"]))
        return call(message)

    grid._call = watch  # type: ignore[method-assign]
    strategy.start(grid, ArrayRecord(), num_rounds=num_rounds)
    return found[:: strategy.num_nodes]


def test_schedules_run_over_each_phase(app, ring: nx.Graph) -> None:
    found = orders(MultiHead(ring, local_rounds=2, local_steps=3), app, 5)
    steps = [(order["step"], order.get("phase-start", 0), order["total-steps"]) for order in found]
    assert steps == [(0, 0, 6), (3, 0, 6), (6, 6, 9), (9, 6, 9), (12, 6, 9)]
    assert [order["head"] for order in found] == [1, 1, 2, 2, 2]
    assert [order["reply"] for order in found] == ["nothing", "logits", "nothing", "nothing", "nothing"]


def scheduled(context: Context) -> Node:
    node = two_heads_node(context)
    node.schedule = "cosine(warmup=4)"
    return node


def test_a_schedule_must_fit_each_phase(ring: nx.Graph) -> None:
    with pytest.raises(InputError, match="a warm-up of 4 steps needs a run of more than 4, not 2"):
        MultiHead(ring, local_rounds=1, local_steps=2).start(
            InProcessGrid(make_client_app(scheduled), 4, {}), ArrayRecord(), num_rounds=5
        )
    found = MultiHead(ring, local_rounds=1, local_steps=6)
    found.start(InProcessGrid(make_client_app(scheduled), 4, {}), ArrayRecord(), num_rounds=2)


@pytest.mark.parametrize("teachers", ["reference", "private"])
def test_a_node_that_is_silent_in_the_exchange_teaches_nobody(teachers: str, app) -> None:
    """On a path, the only neighbor of the end is silent: the end trains on its labels alone, the others go on."""
    grid = FaultyGrid(app, 3, {})
    grid.interfere = lambda vertex, reply: None if vertex == 1 and train_round(reply, grid) == 2 else reply
    strategy = MultiHead(nx.path_graph(3), teachers=teachers, local_rounds=2, **STEPS)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=4)
    losses = [network.metrics[4, vertex].values["kd-loss"] for vertex in range(3)]
    assert losses[0] == losses[2] == 0.0
    assert losses[1] > 0  # it is back, and its neighbors had sent
    assert network.traffic.messages.tolist() == [1, 0, 1]


def train_round(reply: Message, grid: FaultyGrid) -> int:
    """Return how many train replies each node has sent before; not for other replies."""
    if reply.metadata.message_type != "train":
        return 0
    counts = grid.__dict__.setdefault("replies", {})
    node = reply.metadata.src_node_id
    counts[node] = counts.get(node, 0) + 1
    return counts[node]


@pytest.mark.parametrize("teachers", ["reference", "private"])
def test_a_teacher_is_sent_until_it_is_received(teachers: str, app, ring: nx.Graph) -> None:
    class Deaf(FaultyGrid):
        """Node 2 gets no train message in rounds 2 and 3."""

        def stream(self, messages: Any):
            def heard():
                for message in messages:
                    vertex = self._vertex_of[message.metadata.dst_node_id]
                    server_round = message.content["config"].get("server-round", 0)
                    if not (vertex == 2 and message.metadata.message_type == "train" and server_round in (2, 3)):
                        yield message

            yield from super().stream(heard())

    strategy = MultiHead(ring, teachers=teachers, local_rounds=1, **STEPS)
    network = strategy.network(Deaf(app, 4, {}))
    strategy.start(network, ArrayRecord(), num_rounds=4)
    assert network.participation[2].taken == 2
    assert network.metrics[4, 2].values["kd-loss"] > 0


@pytest.mark.parametrize("teachers", ["reference", "private"])
def test_a_node_that_lost_its_state_gets_its_teacher_again(teachers: str, app, ring: nx.Graph, caplog) -> None:
    """Its network is as it was before the run; it goes on with head 2 as far as that is possible."""
    grid = recorded_grid(app, 4)
    strategy = MultiHead(ring, teachers=teachers, local_rounds=1, **STEPS)
    network = strategy.network(grid)
    due = []
    node_returned = strategy.node_returned

    def returned(vertex: int, hello: Hello) -> None:
        node_returned(vertex, hello)
        due.extend(vertex for vertex in range(4) if strategy.payload(vertex))

    strategy.node_returned = returned

    def lose(server_round: int) -> None:
        if server_round == 2:
            context = next(context for node, context in grid.contexts.items() if grid._vertex_of[node] == 3)
            context.state = RecordDict()

    strategy.on_round = lose
    strategy.start(network, ArrayRecord(), num_rounds=4)
    assert due == [3]
    assert network.metrics[4, 3].values["kd-loss"] > 0
    assert "node 3 has lost what it learned alone: it continues with head 2 on an untrained backbone" in caplog.text


def test_without_any_teacher_the_run_ends(app, ring: nx.Graph) -> None:
    for teachers in ("reference", "private"):
        grid = FaultyGrid(app, 4, {})

        def spoil(vertex: int, reply: Message) -> Message:
            for name in (LOGITS, ARRAYS):
                if name in reply.content:
                    reply.content[name] = wire.encode(torch.zeros(2, 2))
            return reply

        grid.interfere = spoil
        with pytest.raises(InputError, match="nothing was exchanged: no node's head 1 can teach others"):
            MultiHead(ring, teachers=teachers, **STEPS).start(grid, ArrayRecord(), num_rounds=4)


@pytest.mark.parametrize(
    ("lie", "refused"),
    [
        (lambda array: array * np.float32("nan"), "NaN or Inf"),
        (lambda array: array * np.float32(1e6), r"weights of up to .*100 times the median"),
        (lambda array: array[..., None], "weights of another model"),
    ],
    ids=["not finite", "large", "other shape"],
)
def test_a_lying_network_is_nobodys_teacher(lie: Callable, refused: str, app, ring: nx.Graph) -> None:
    """Nodes 0 and 2 have one width, so have 1 and 3: the lie of one is measured by the other."""
    grid = FaultyGrid(app, 6, {})

    def spoil(vertex: int, reply: Message) -> Message:
        if vertex == 2 and ARRAYS in reply.content:
            arrays = {name: wire.read(name, array) for name, array in reply.content[ARRAYS].items()}
            lies = {name: lie(array) if array.dtype.kind == "f" else array for name, array in arrays.items()}
            reply.content[ARRAYS] = ArrayRecord({name: wire.as_array(array) for name, array in lies.items()})
        return reply

    grid.interfere = spoil
    strategy = MultiHead(nx.cycle_graph(6), teachers="private", **STEPS)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=3)
    assert set(strategy._sent.records) == {0, 1, 3, 4, 5}
    [why] = network.participation[2].reasons
    assert re.search(refused, why)
    assert network.metrics[3, 1].values["kd-loss"] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"local_rounds": 4}, "local_rounds = 4 leaves no round for the second head: it must be below .* rounds, 4"),
        ({"local_rounds": -1}, "local_rounds = -1"),
        ({"teachers": "public"}, "unknown teachers 'public'"),
        ({"teacher_mode": "train"}, "teacher_mode = 'train' is for teachers = 'private'"),
        ({"teachers": "private", "pooling": "class-share"}, "class-share' needs the class counts of neighbors"),
        ({"alpha": 1.5}, "alpha = 1.5"),
    ],
)
def test_settings_are_checked_before_anything_is_trained(settings: dict, words: str, app, ring: nx.Graph) -> None:
    with pytest.raises(InputError, match=words):
        MultiHead(ring, **settings).start(InProcessGrid(app, 4, {}), ArrayRecord(), num_rounds=4)


def test_one_round_has_no_second_phase(app, ring: nx.Graph) -> None:
    with pytest.raises(InputError, match="a run of 1 round has no second phase"):
        MultiHead(ring).start(InProcessGrid(app, 4, {}), ArrayRecord(), num_rounds=1)


def refusal(build: Callable[[Context], Node], **settings: Any) -> str:
    strategy = MultiHead(nx.cycle_graph(4), **settings)
    with pytest.raises(InputError) as error:
        strategy.start(InProcessGrid(make_client_app(build), 4, {}), ArrayRecord(), num_rounds=2)
    return str(error.value)


def test_nodes_need_two_heads() -> None:
    assert "cannot take part: the strategy trains networks with two heads, but the model is of type Sequential" in (
        refusal(build_blob_node)
    )


def test_a_node_must_be_able_to_build_its_neighbors_networks() -> None:
    def unable(context: Context) -> Node:
        node = two_heads_node(context)
        node.build_model = None
        return node

    def mistaken(context: Context) -> Node:
        node = two_heads_node(context)
        if node.name == "width-12":
            node.build_model = lambda name: classifier("width-9")
        return node

    def failing(context: Context) -> Node:
        node = two_heads_node(context)
        node.build_model = lambda name: {}[name]
        return node

    prefix = "node 0 cannot build the network 'width-12' of its neighbor 1: "
    assert refusal(unable, teachers="private") == f"{prefix}it has no build_model for networks that are not its own"
    assert refusal(failing, teachers="private").startswith(f"{prefix}KeyError: 'width-12'")
    assert refusal(mistaken, teachers="private").startswith(
        "node 1 cannot build the network 'width-8' of its neighbor 0: it builds one with"
    )
    run_strategy(MultiHead(nx.cycle_graph(4), local_steps=2), InProcessGrid(make_client_app(unable), 4, {}))


def test_networks_alike_need_no_builder(ring: nx.Graph) -> None:
    def build(context: Context) -> Node:
        node = two_heads_node(context)
        with torch_seeded(0):
            model = TwoHeads(classifier("width-8"), classes=CLASSES)
        return Node(model, torch.optim.SGD(model.parameters(), 0.1), node.private, node.reference, node.test, CLASSES)

    strategy = MultiHead(ring, teachers="private", local_steps=2)
    network = strategy.network(InProcessGrid(make_client_app(build), 4, {}))
    strategy.start(network, ArrayRecord(), num_rounds=2)
    assert network.hellos[0].model == "Sequential"
    assert network.metrics[2, 0].values["kd-loss"] > 0


def test_private_teachers_need_no_reference_set(ring: nx.Graph) -> None:
    def build(context: Context) -> Node:
        node = two_heads_node(context)
        node.reference = torch.zeros(0, FEATURES)
        return node

    grid = InProcessGrid(make_client_app(build), 4, {})
    strategy = MultiHead(ring, teachers="private", local_steps=2)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=2)
    assert network.metrics[2, 0].values["kd-loss"] > 0
    with pytest.raises(InputError, match="no reference set"):
        MultiHead(ring, local_steps=2).start(grid, ArrayRecord(), num_rounds=2)


def test_nodes_learn_unseen_classes_from_their_neighbors(app, ring: nx.Graph) -> None:
    strategy = MultiHead(ring, alpha=0.3, local_steps=50, evaluate_every=2)
    found = strategy.start(InProcessGrid(app, 4, {}), ArrayRecord(), num_rounds=2).evaluate_metrics_clientapp
    assert found[2]["accuracy"] > found[1]["accuracy"] + 0.1


def test_nodes_that_pool_themselves_need_the_pooling(app, ring: nx.Graph) -> None:
    grid = InProcessGrid(app, 4, {})
    greeting = MultiHead(ring, teachers="private", pooling="median").network(grid).greeting
    assert (greeting.pooling, greeting.wire) == ("median", "")
    check_parts(greeting)
    with pytest.raises(InputError, match="pooling 'not_here:largest' cannot be imported: ModuleNotFoundError"):
        check_parts(replace(greeting, pooling="not_here:largest"))
    assert MultiHead(ring).network(grid).greeting.pooling == ""  # the server pools
