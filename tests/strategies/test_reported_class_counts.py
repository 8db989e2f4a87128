"""Class counts are said in the handshake, only where the pooling takes them, and checked there."""

from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from conftest import DelayedGrid, FaultyGrid, blobs, build_blob_node
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message
from outside_parts import module

from flower_kd import pooling
from flower_kd.clients import Node, make_client_app
from flower_kd.clients.state import LiveState
from flower_kd.errors import InputError
from flower_kd.protocol import HELLO, JOIN, Hello
from flower_kd.strategies import DDist, NeighborKD, class_counts
from flower_kd.wire import message_bytes

RING = nx.cycle_graph(4)
SCHEDULE = {"local_steps": 4, "exchange_every": 2}


def counts_of(vertex: int) -> list[int]:
    """Return how many samples of each class a blob node has."""
    labels = blobs(vertex, 60)[1]
    return [int(((labels == label) & (labels != vertex % 3)).sum()) for label in range(3)]


class Watched(FaultyGrid):
    """A grid that keeps every reply to the handshake, and whether anything was trained."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.hellos: list[ConfigRecord] = []
        self.sizes: list[int] = []
        self.trained = False

    def _call(self, message: Message) -> Message:
        reply = super()._call(message)
        if message.metadata.message_type == JOIN:
            self.hellos.append(reply.content.config_records[HELLO])
            self.sizes.append(message_bytes(reply))
        else:
            self.trained = True
        return reply


def recorded(strategy: NeighborKD) -> list[torch.Tensor]:
    """Return the class counts that a strategy's pooling will be given."""
    seen: list[torch.Tensor] = []
    pool = strategy.pool

    def recording(*given: Any, class_counts: torch.Tensor) -> Any:
        seen.append(class_counts)
        return pool(*given, class_counts=class_counts)

    strategy.pool = recording
    return seen


@pytest.fixture
def watched() -> Watched:
    return Watched(make_client_app(build_blob_node), 4, {})


@pytest.mark.parametrize("name", pooling.names())
def test_nodes_say_their_class_counts_for_the_poolings_that_take_them_only(name: str, watched: Watched) -> None:
    strategy = NeighborKD(RING, pooling=name, wire="labels", **SCHEDULE)
    network = strategy.network(watched)
    strategy.start(network, ArrayRecord(), num_rounds=1)
    said = [list(hello.get("class-counts", [])) for hello in watched.hellos]
    if name == "class-share":
        assert said == [counts_of(vertex) for vertex in range(4)]
        assert all("class-counts" in hello for hello in watched.hellos)
    else:
        assert said == [[]] * 4
        assert not any("class-counts" in hello for hello in watched.hellos)
    assert [network.participation[vertex].taken for vertex in range(4)] == [2] * 4


def test_other_strategies_do_not_ask(watched: Watched) -> None:
    DDist(RING, **SCHEDULE).start(watched, num_rounds=1)
    assert not any("class-counts" in hello for hello in watched.hellos)


def test_the_bytes_of_class_counts_are_counted(watched: Watched) -> None:
    traffic = {}
    for name in ("mean", "class-share"):
        network = NeighborKD(RING, pooling=name, **SCHEDULE).network(watched)
        network.join()
        traffic[name] = network.traffic.up.copy()
        assert traffic[name].tolist() == watched.sizes[-4:]
    assert (traffic["class-share"] - traffic["mean"] > 3).all()


def test_teachers_follow_the_counts_that_nodes_reported(watched: Watched) -> None:
    strategy = NeighborKD(RING, pooling="class-share", **SCHEDULE)
    seen = recorded(strategy)
    strategy.start(watched, num_rounds=2)
    assert len(seen) == 3  # of four exchanges: the run's last has no logits
    assert all(torch.equal(counts, torch.tensor([counts_of(v) for v in range(4)]).float()) for counts in seen)


def test_a_pooling_of_ones_own_is_given_class_counts_if_it_has_the_parameter(tmp_path: Path, watched: Watched) -> None:
    content = """
from flower_kd import pooling

class Counting:
    def __init__(self, *, power: float = 1.0):
        self.power, self.seen = power, []

    def __call__(self, logits, weights, temperature, class_counts):
        self.seen.append(class_counts)
        return pooling.get("class-share")(logits, weights, temperature, class_counts=class_counts**self.power)

def plain(logits, weights, temperature, **others):
    assert not others
    return pooling.get("mean")(logits, weights, temperature)
"""
    with module(tmp_path, "counting_parts", content):
        strategy = NeighborKD(RING, pooling="counting_parts:Counting(power=2)", **SCHEDULE)
        strategy.start(watched, num_rounds=2)
        assert [list(counts.shape) for counts in strategy.pool.seen] == [[4, 3]] * 3
        watched.hellos.clear()
        NeighborKD(RING, pooling="counting_parts:plain", **SCHEDULE).start(watched, num_rounds=1)
        assert not any("class-counts" in hello for hello in watched.hellos)


# -- what nodes may report ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reported", "words"),
    [
        (None, "node 2 does not say how many samples of each class it has, as this run's pooling needs"),
        ([], "node 2 does not say how many samples of each class it has"),
        ([3, 4], "node 2 reports 2 class counts for 3 classes"),
        ([1] * 4, "node 2 reports 4 class counts for 3 classes"),
        ([0, 0, 0], "node 2 reports no sample of any class"),
        ([3, -1, 4], r"'class_counts' 1 = -1 in its handshake"),
        ([3, 2**31, 4], r"'class_counts' 1 = 2147483648 in its handshake"),
        ([3.0, 1.0, 4.0], r"'class_counts' 0 = 3\.0 in its handshake"),
        ([True, False, True], r"'class_counts' 0 = True in its handshake"),
        (["3", "1", "4"], r"'class_counts' 0 = '3' in its handshake"),
        (5, r"'class_counts' = 5 in its handshake"),
        ("x" * 10_000, r"'class_counts' = 'x+.* in its handshake"),
        ([1] * 1_000_001, "its handshake has too many entries"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_class_counts_that_are_not_plausible_end_the_run_before_training(
    reported: object, words: str, watched: Watched
) -> None:
    def interfere(vertex: int, reply: Message) -> Message:
        if vertex == 2 and reply.metadata.message_type == JOIN:
            hello = dict(reply.content.config_records[HELLO])
            hello.pop("class-counts")
            reply.content[HELLO] = ConfigRecord(hello | ({} if reported is None else {"class-counts": reported}))
        return reply

    watched.interfere = interfere
    with pytest.raises(InputError, match=words) as refusal:
        NeighborKD(RING, pooling="class-share", **SCHEDULE).start(watched, num_rounds=1)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 500
    assert not watched.trained


@pytest.mark.parametrize("settings", [{"pooling": "class-share"}, {"logit_adjustment": 1.0}])
def test_a_node_that_cannot_count_says_so_before_training(settings: dict) -> None:
    class Own:
        def batches(self, first_step: int, num_steps: int):
            yield from [blobs(0, 10)] * num_steps

        def __len__(self) -> int:
            return 10

    def build(context: Context) -> Node:
        node = build_blob_node(context)
        if context.node_config["partition-id"] == 1:
            node.private = Own()
        return node

    grid = Watched(make_client_app(build), 4, {})
    with pytest.raises(InputError, match="node 1 cannot take part: the private data are of type Own, which does not"):
        NeighborKD(RING, **settings, **SCHEDULE).start(grid, num_rounds=1)
    assert not grid.trained
    NeighborKD(RING, **SCHEDULE).start(grid, num_rounds=1)


def test_a_liar_has_3_times_the_median_of_samples_at_most() -> None:
    def bounded(*counts: list[int]) -> list[list[float]]:
        hellos = {vertex: Hello(vertex, classes=2, class_counts=each) for vertex, each in enumerate(counts)}
        return class_counts.bounded_class_counts(hellos).tolist()

    assert bounded([10, 10], [20, 0], [0, 30]) == [[10, 10], [20, 0], [0, 30]]
    lied = bounded([10, 10], [20, 0], [0, 20], [2**31 - 1, 2**31 - 1])
    assert lied[:3] == [[10, 10], [20, 0], [0, 20]]
    assert lied[3] == pytest.approx([30, 30])


def test_a_node_that_returns_with_other_data_has_other_counts(grid: FaultyGrid) -> None:
    old, original = list(grid.contexts)[2], grid._call
    strategy = NeighborKD(RING, pooling="class-share", **SCHEDULE)
    seen = recorded(strategy)

    def call(message: Message) -> Message:
        if message.metadata.dst_node_id not in grid.contexts:
            return Message(Error(1, "node is unavailable"), reply_to=message)
        return original(message)

    trained = 0

    def interfere(vertex: int, reply: Message) -> Message | None:
        nonlocal trained
        if vertex == 2 and reply.metadata.message_type == JOIN and trained:
            reply.content[HELLO]["class-counts"] = [1, 2, 3]
        if vertex != 2 or reply.metadata.message_type != "train":
            return reply
        trained += 1
        if trained == 2:
            grid.contexts[4242] = Context(1, 4242, grid.contexts.pop(old).node_config, LiveState(), {})
            return None
        return reply

    grid._call, grid.interfere = call, interfere
    delayed = DelayedGrid(grid)
    network = delayed.watched(strategy.network(delayed))
    strategy.start(network, ArrayRecord(), num_rounds=4, timeout=1.0)
    assert network.node_id(2) == 4242
    assert seen[0][2].tolist() == counts_of(2)
    assert seen[-1][2].tolist() == [1, 2, 3]
    assert torch.equal(seen[0][:2], seen[-1][:2])
