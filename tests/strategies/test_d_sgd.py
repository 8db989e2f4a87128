"""D-SGD with compressed weights: CHOCO-SGD, in which nodes and server never silently disagree."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import FaultyGrid, build_same_model_node, recorded_grid, run_strategy
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from flower_kd.clients import make_client_app
from flower_kd.clients.node_files import NodeFiles
from flower_kd.errors import InputError
from flower_kd.protocol import ARRAYS, UPDATE, Greeting
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import DSGD, FedAvg
from flower_kd.wire import as_array, as_coded, digest

START = {"weight": torch.zeros(3, 6), "bias": torch.zeros(3)}
COMPRESSED = {
    "d-sgd": lambda graph, name: DSGD(graph, compression=name, local_steps=6, exchange_every=3, evaluate_every=2),
    "fedavg": lambda graph, name: FedAvg(graph, compression=name, local_steps=6, evaluate_every=2),
}
NAMES = ["uint8", "top-k(share=0.1)"]
CASES = [(strategy, name) for strategy in COMPRESSED for name in NAMES]


def common_node(context: Context):
    """Return a node that starts from the weights of all others."""
    node = build_same_model_node(context)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        node.model.reset_parameters()
    return node


def watched(grid: FaultyGrid) -> list[tuple[int, str, dict[str, np.ndarray]]]:
    """Return a list that fills with the weights or updates that nodes send: vertex, kind, arrays."""
    seen: list[tuple[int, str, dict[str, np.ndarray]]] = []
    interfere = grid.interfere

    def watch(vertex: int, reply: Message) -> Message | None:
        changed = reply if interfere is None else interfere(vertex, reply)
        if changed is not None and changed.has_content() and changed.metadata.message_type == "train":
            for kind in (ARRAYS, UPDATE):
                if kind in changed.content:
                    arrays = changed.content[kind]
                    seen.append((vertex, kind, {name: array.numpy() for name, array in arrays.items()}))
        return changed

    grid.interfere = watch
    return seen


def grid_of(build: Callable = common_node, num_nodes: int = 4) -> FaultyGrid:
    return FaultyGrid(make_client_app(build), num_nodes, {})


def models(grid: InProcessGrid) -> np.ndarray:
    """Return all weights, [nodes, parameters]."""
    nodes = [context.state.node for context in grid.contexts.values()]
    return np.stack(
        [np.concatenate([p.detach().numpy().reshape(-1) for p in node.model.parameters()]) for node in nodes]
    )


# -- the algorithm -----------------------------------------------------------------------------------------------------


def test_choco_sgd_by_hand() -> None:
    """Two exchanges with a step of 0.5: x + gamma W (estimates), with the estimates that were sent."""
    graph, num_nodes, gamma = nx.star_graph(3), 4, 0.5
    grid = grid_of()
    seen = watched(grid)
    strategy = DSGD(graph, compression="top-k(share=0.3)", consensus_step=gamma, local_steps=2)
    mixing = strategy.mixing.matrix.toarray()
    trained: dict[int, list[np.ndarray]] = {vertex: [] for vertex in range(num_nodes)}
    watch = grid.interfere

    def keep_trained(vertex: int, reply: Message) -> Message | None:
        if reply.metadata.message_type == "train":
            node = list(grid.contexts.values())[vertex].state.node
            trained[vertex].append(np.concatenate([p.detach().numpy().reshape(-1) for p in node.model.parameters()]))
        return watch(vertex, reply)

    grid.interfere = keep_trained
    start = models_of_start(grid)
    strategy.start(strategy.network(grid), num_rounds=2)
    assert [kind for _, kind, _ in seen] == [UPDATE] * 8
    estimates = np.repeat(start[None], num_nodes, axis=0)
    for exchange in range(2):
        halves = np.stack([trained[vertex][exchange] for vertex in range(num_nodes)])
        estimates = estimates + np.stack([top_k(difference, 7) for difference in halves - estimates])
        moved = halves + gamma * (mixing @ estimates - estimates)
        assert np.allclose(moved.mean(0), halves.mean(0), atol=1e-6)  # mixing keeps the mean over nodes
    assert np.allclose(models(grid), moved, atol=1e-2)  # 8 bits
    assert not np.allclose(halves, moved, atol=2e-2)


def models_of_start(grid: FaultyGrid) -> np.ndarray:
    context = next(iter(grid.contexts.values()))
    return np.concatenate([p.detach().numpy().reshape(-1) for p in common_node(context).model.parameters()])


def top_k(values: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros_like(values)
    places = np.argsort(-np.abs(values))[:k]
    kept[places] = values[places]
    return kept


@pytest.mark.parametrize(
    "graph", [nx.star_graph(4), nx.cycle_graph(5), nx.DiGraph([(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 3)])]
)
def test_mixing_keeps_the_mean_of_the_estimates(graph: nx.Graph) -> None:
    """Also while a node is absent, whose estimate has no weight then."""
    grid = grid_of(num_nodes=5)
    strategy = DSGD(graph, compression="top-k(share=0.2)", consensus_step=0.4, local_steps=2)
    means: list[tuple[np.ndarray, np.ndarray]] = []
    absorb = strategy.absorb

    def both(replies):
        refused = absorb(replies)
        present = [vertex for vertex in strategy._unsent if vertex in strategy._mixed]
        mixed = [strategy._mixed[vertex]["weight"].numpy() for vertex in present]
        own = [strategy._bases._weights[vertex]["weight"] for vertex in present]
        means.append((np.mean(mixed, 0), np.mean(own, 0)))
        return refused

    strategy.absorb = both
    left = iter([False] * 9 + [True] * 5)
    grid.interfere = lambda vertex, reply: None if vertex == 2 and next(left, False) else reply
    network = strategy.network(grid)
    strategy.start(network, num_rounds=6)
    assert network.participation[2].taken < 6
    for mixed, own in means:
        assert np.allclose(mixed, own, atol=1e-6)
    assert not np.allclose(means[0][0], means[-1][0], atol=1e-3)


class Exact:
    """All values; the shortest compression."""

    def compress(self, update):
        return update

    def decompress(self, arrays, shapes):
        return arrays


def test_a_compression_that_loses_nothing_is_d_sgd(ring: nx.Graph) -> None:
    grids = [grid_of(), grid_of()]
    for grid, settings in zip(grids, ({}, {"compression": f"{__name__}:Exact"}), strict=True):
        strategy = DSGD(ring, local_steps=4, exchange_every=2, **settings)
        strategy.start(strategy.network(grid), num_rounds=3)
    assert np.allclose(models(grids[0]), models(grids[1]), atol=1e-5)
    fedavg = []
    for settings in ({}, {"compression": f"{__name__}:Exact"}):
        strategy = FedAvg(ring, local_steps=4, **settings)
        fedavg.append(strategy.start(strategy.network(grid_of()), num_rounds=3).arrays["weight"].numpy())
    assert np.allclose(*fedavg, atol=1e-5)


@pytest.mark.parametrize(("cls", "name"), [(DSGD, "none"), (DSGD, "none()"), (FedAvg, "none"), (FedAvg, "none()")])
def test_no_compression_changes_nothing(cls, name: str, ring: nx.Graph) -> None:
    figures = []
    for settings in ({}, {"compression": name}):
        grid = grid_of()
        seen = watched(grid)
        asked = []
        grid.client_app = asking(grid.client_app, asked)
        figures.append(run_strategy(cls(ring, local_steps=6, **settings), grid))
        assert {kind for _, kind, _ in seen} == {ARRAYS}
        assert "query.weights" not in asked
        assert all(context.state.node.memory == {} for context in grid.contexts.values())
    assert figures[0] == figures[1]


def asking(app: ClientApp, asked: list[str]) -> Callable:
    def call(message: Message, context: Context) -> Message:
        asked.append(message.metadata.message_type)
        return app(message, context)

    return call


def test_top_k_converges_because_nodes_remember_what_it_left_out(ring: nx.Graph, monkeypatch) -> None:
    """Three values of 21 in each message: with a memory nearly as good as all values; without, much worse."""

    def loss(name: str) -> float:
        strategy = FedAvg(ring, compression=name, local_steps=5, evaluate_every=30)
        result = strategy.start(strategy.network(grid_of()), num_rounds=30)
        return result.evaluate_metrics_clientapp[30]["loss"]

    everything, remembering = loss("none"), loss("top-k(share=0.1)")
    monkeypatch.setattr("flower_kd.clients.updates.remember", lambda node, kind, arrays: None)
    forgetful = loss("top-k(share=0.1)")
    assert remembering < everything + 0.05
    assert forgetful > remembering + 0.05


# -- engines, resumption -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_figures_do_not_depend_on_the_engine(kind: str, name: str, ring: nx.Graph) -> None:
    app = make_client_app(common_node)
    live = run_strategy(COMPRESSED[kind](ring, name), InProcessGrid(app, 4, {}))
    assert live == run_strategy(COMPRESSED[kind](ring, name), recorded_grid(app, 4))
    assert live == run_strategy(COMPRESSED[kind](ring, name), InProcessGrid(app, 4, {}))


class _StopError(Exception):
    pass


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(kind: str, name: str, ring: nx.Graph, tmp_path: Path) -> None:
    """Other processes continue at both ends: the nodes from their files, the server from its state."""
    whole = COMPRESSED[kind](ring, name)
    network = whole.network(InProcessGrid(make_client_app(common_node), 4, {}))
    whole.start(network, num_rounds=4)
    for stop_after in (1, 2):
        folder = tmp_path / str(stop_after)
        app = make_client_app(
            common_node,
            lambda context, _, folder=folder: NodeFiles(folder / str(context.node_config["partition-id"])),
        )
        first = COMPRESSED[kind](ring, name)
        interrupted = first.network(InProcessGrid(app, 4, {}))
        saved: list[dict] = []

        def stop(server_round: int, first=first, interrupted=interrupted, saved=saved, last=stop_after) -> None:
            if server_round == last:
                saved.extend([first.saved_state(), interrupted.state_dict()])
                raise _StopError

        first.on_round = stop
        with suppress(_StopError):
            first.start(interrupted, num_rounds=4)
        second = COMPRESSED[kind](ring, name)
        grid = FaultyGrid(app, 4, {})
        seen = watched(grid)
        continued = second.network(grid)
        continued.greeting = Greeting(fresh=False, server_round=stop_after, compression=name)
        continued.on_join = lambda continued=continued, saved=saved: continued.load_state_dict(saved[1])
        second.resume_after(stop_after, saved[0])
        second.start(continued, num_rounds=4)
        assert {kind for _, kind, _ in seen} == {UPDATE}
        assert (continued.traffic.shared == network.traffic.shared).all()
        for vertex in range(4):
            one, other = (n.metrics[4, vertex].values | {"seconds": 0} for n in (network, continued))
            assert one == other


# -- disagreement ------------------------------------------------------------------------------------------------------


def estimates_agree(strategy: DSGD, grid: FaultyGrid) -> None:
    for vertex, context in enumerate(grid.contexts.values()):
        memory = context.state.node.memory
        base = {name.removeprefix("base."): array for name, array in memory.items() if name.startswith("base.")}
        assert digest(base) == strategy._bases.digest(vertex)


def test_equal_starts_cost_nothing_and_others_one_message_in_full(ring: nx.Graph) -> None:
    for build, kinds in ((common_node, [UPDATE] * 12), (build_same_model_node, [UPDATE] + 3 * [ARRAYS] + [UPDATE] * 8)):
        grid = grid_of(build)
        seen = watched(grid)
        strategy = DSGD(ring, compression="top-k", local_steps=2)
        network = strategy.network(grid)
        strategy.start(network, num_rounds=3)
        assert [kind for _, kind, _ in seen] == kinds
        estimates_agree(strategy, grid)
        assert (network.traffic.messages == 3).all()
    given = grid_of(build_same_model_node)
    seen = watched(given)
    strategy = DSGD(ring, compression="top-k", local_steps=2)
    strategy.start(strategy.network(given), ArrayRecord(dict(START)), num_rounds=2)
    assert [kind for _, kind, _ in seen] == [UPDATE] * 8  # the server sent them


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_lost_reply_is_noticed(kind: str, ring: nx.Graph) -> None:
    """The node has moved its estimate and the server has not: its next message is in full."""
    grid = grid_of()
    lost = {"times": 0}

    def lose(vertex: int, reply: Message) -> Message | None:
        if vertex == 1 and reply.metadata.message_type == "train":
            lost["times"] += 1
            return None if lost["times"] == 2 else reply
        return reply

    grid.interfere = lose
    seen = watched(grid)
    strategy = COMPRESSED[kind](ring, "uint8")
    strategy.start(strategy.network(grid), num_rounds=4)
    full = [ARRAYS if kind == "d-sgd" else UPDATE]  # FedAvg's next base is in the message
    of_node = [name for vertex, name, _ in seen if vertex == 1]
    assert of_node == [UPDATE, *full, *[UPDATE] * (len(of_node) - 2)]
    assert all(name == UPDATE for vertex, name, _ in seen if vertex != 1)
    if kind == "d-sgd":
        estimates_agree(strategy, grid)


def test_a_lost_message_changes_nothing(ring: nx.Graph) -> None:
    """The node never saw it: both sides still agree."""
    grid = grid_of()
    seen = watched(grid)
    call = grid.client_app
    calls = {"times": 0}

    def lossy(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1 and message.metadata.message_type == "train":
            calls["times"] += 1
            if calls["times"] == 2:
                raise ConnectionError
        return call(message, context)

    grid.client_app = lossy
    strategy = COMPRESSED["d-sgd"](ring, "top-k")
    network = strategy.network(grid)
    strategy.start(network, num_rounds=3)
    assert network.participation[1].taken == 5
    assert {kind for _, kind, _ in seen} == {UPDATE}
    estimates_agree(strategy, grid)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_node_that_lost_its_state_sends_all_of_its_weights(kind: str, ring: nx.Graph) -> None:
    grid = grid_of()
    seen = watched(grid)
    old = list(grid.contexts)[1]
    watch, calls = grid.interfere, {"times": 0}

    def replace(vertex: int, reply: Message) -> Message | None:
        if vertex == 1 and reply.metadata.message_type == "train" and old in grid.contexts:
            calls["times"] += 1
            if calls["times"] == 2:
                context = grid.contexts.pop(old)
                context.node_id, context.state.node = 4242, None
                grid.contexts[4242] = context
                return None
        return watch(vertex, reply)

    grid.interfere = replace
    strategy = COMPRESSED[kind](ring, "uint8")
    network = strategy.network(grid)
    strategy.start(network, num_rounds=5)
    of_node = [name for vertex, name, _ in seen if vertex == 1]
    assert of_node[0] == UPDATE
    assert of_node[1] == (ARRAYS if kind == "d-sgd" else UPDATE)
    assert len(of_node) > 3
    assert set(of_node[2:]) == {UPDATE}


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("silent", [1, 4])
def test_nodes_that_do_not_tell_how_they_start(kind: str, silent: int, ring: nx.Graph, caplog) -> None:
    """Then another one is asked; if none tells, all send their weights once."""
    grid = grid_of()
    seen = watched(grid)
    call = grid.client_app

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.weights" and context.node_config["partition-id"] < silent:
            raise ConnectionError("no")
        return call(message, context)

    grid.client_app = app
    strategy = COMPRESSED[kind](ring, "top-k")
    strategy.start(strategy.network(grid), num_rounds=2)
    kinds = [name for _, name, _ in seen]
    assert kinds == ([UPDATE] * len(kinds) if silent == 1 else [ARRAYS] * 4 + [UPDATE] * (len(kinds) - 4))


@pytest.mark.parametrize("kind", COMPRESSED)
def test_another_node_is_asked_if_one_tells_its_start_unreadably(kind: str, ring: nx.Graph, caplog) -> None:
    grid = grid_of()

    def lie(vertex: int, reply: Message) -> Message:
        if reply.metadata.message_type == "query.weights" and vertex == 0:
            reply.content[ARRAYS] = ArrayRecord({"weight": as_coded(b"not weights")})
        return reply

    grid.interfere = lie
    seen = watched(grid)
    strategy = COMPRESSED[kind](ring, "uint8")
    strategy.start(strategy.network(grid), num_rounds=2)
    assert "node 0 does not tell its weights: array 'weight' cannot be read" in caplog.text
    assert {name for _, name, _ in seen} == {UPDATE}


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize(
    "told",
    [{"weight": np.full((3, 6), np.nan, np.float32), "bias": np.zeros(3, np.float32)}, {"other": np.zeros(9)}, {}],
    ids=["nan", "another model", "nothing"],
)
def test_a_node_that_tells_a_wrong_start_costs_others_one_message_in_full(
    kind: str, told: dict, ring: nx.Graph
) -> None:
    grid = grid_of()

    def lie(vertex: int, reply: Message) -> Message:
        if reply.metadata.message_type == "query.weights":
            reply.content[ARRAYS] = ArrayRecord({name: as_array(array) for name, array in told.items()})
        return reply

    grid.interfere = lie
    seen = watched(grid)
    strategy = COMPRESSED[kind](ring, "uint8")
    network = strategy.network(grid)
    strategy.start(network, num_rounds=2)
    kinds = [name for _, name, _ in seen]
    assert kinds == [ARRAYS] * 4 + [UPDATE] * (len(kinds) - 4)
    assert all(network.participation[vertex].taken == network.participation[vertex].due for vertex in range(4))


# -- what others send --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize(
    ("interfere", "words"),
    [
        (lambda c: c[UPDATE].pop("codes"), "weights that are not in compression 'uint8': no array 'codes'"),
        (lambda c: c[UPDATE].update({"codes": c[UPDATE]["steps"]}), "'codes' has dtype 'float32' where 'uint8'"),
        (lambda c: c.update({ARRAYS: c[UPDATE]}), "its reply has a record 'arrays' that was not requested"),
        (lambda c: c.pop(UPDATE), "its reply has no weights"),
    ],
)
def test_a_hostile_update_is_left_out(kind: str, interfere, words: str, ring: nx.Graph) -> None:
    grid = grid_of()

    def change(vertex: int, reply: Message) -> Message:
        if vertex == 1 and UPDATE in reply.content:
            interfere(reply.content)
        elif vertex == 1 and ARRAYS in reply.content:
            reply.content[UPDATE] = reply.content.pop(ARRAYS)
        return reply

    grid.interfere = change
    strategy = COMPRESSED[kind](ring, "uint8")
    network = strategy.network(grid)
    strategy.start(network, num_rounds=2)
    assert network.participation[1].taken == 0
    assert words in next(iter(network.participation[1].reasons))
    assert all(network.participation[vertex].taken == network.participation[vertex].due for vertex in (0, 2, 3))


def test_an_update_of_weights_nobody_has(ring: nx.Graph) -> None:
    grid = grid_of()
    call = grid.client_app

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.weights":
            raise ConnectionError("no")
        reply = call(message, context)
        if ARRAYS in reply.content:
            reply.content[UPDATE] = reply.content.pop(ARRAYS)
        return reply

    grid.client_app = app
    strategy = COMPRESSED["d-sgd"](ring, "uint8")
    network = strategy.network(grid)
    strategy.start(network, num_rounds=1)
    reasons = [next(iter(network.participation[vertex].reasons)) for vertex in range(4)]
    assert reasons == ["its reply has an update of weights that were never received"] * 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"compression": "uint9"}, "unknown compression 'uint9'"),
        ({"compression": "top-k(share=2)"}, "share = 2 must be above 0 and at most 1"),
        ({"compression": "uint8", "consensus_step": 1.5}, "consensus_step = 1.5 must be at least 0 and at most 1"),
        ({"compression": "uint8", "consensus_step": math.nan}, "consensus_step = nan must be finite"),
        ({"consensus_step": 0.5}, "consensus_step = 0.5 needs a compression"),
    ],
)
def test_bad_settings(settings: dict, words: str, ring: nx.Graph) -> None:
    with pytest.raises(InputError, match=words):
        DSGD(ring, **settings)


class Broken(Exact):
    def decompress(self, arrays, shapes):
        raise KeyError("lost")


@pytest.mark.parametrize("cls", [DSGD, FedAvg])
def test_a_faulty_compression_is_named_in_the_handshake(cls, ring: nx.Graph) -> None:
    grid = grid_of()
    asked: list[str] = []
    grid.client_app = asking(grid.client_app, asked)
    strategy = cls(ring, compression=f"{__name__}:Broken", local_steps=2)
    with pytest.raises(InputError, match=r"node 0 cannot take part: compression 'test_d_sgd:Broken' cannot decompress"):
        strategy.start(strategy.network(grid), num_rounds=1)
    assert set(asked) == {"query.join"}
