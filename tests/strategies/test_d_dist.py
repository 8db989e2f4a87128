import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.protocol import Hello
from flower_kd.strategies import DDist

ROWS = np.arange(4)


def started(graph: nx.Graph, **options) -> DDist:
    """Return Distributed Distillation as published, but for the options, at the start of a run of 4 rows."""
    strategy = DDist(graph, **{"dissimilarity": "squared-error", "temperature": 1.0} | options)
    strategy.begin({vertex: Hello(vertex=vertex, classes=3, reference_rows=4) for vertex in graph})
    return strategy


def predictions(seed: int, nodes: int) -> torch.Tensor:
    return 3 * torch.randn(nodes, 4, 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(["ring", "star", "complete", "random-directed"]), seed=st.integers(0, 99))
def test_tracking_keeps_the_networks_mean_prediction(name: str, seed: int) -> None:
    strategy = started(topology.build(name, 6, seed=1), consensus="tracking")
    everyone = np.ones(6, dtype=bool)
    for exchange in range(5):
        logits = predictions(seed + exchange, 6)
        strategy.teach(ROWS, logits, everyone)
        mean = torch.softmax(logits, dim=-1).mean(0)
        assert torch.allclose(strategy.consensus.mean(0), mean, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["ring", "star", "random-directed"]),
    seed=st.integers(0, 99),
    absences=st.lists(st.sets(st.integers(0, 5), max_size=5), min_size=1, max_size=6),
)
def test_tracking_keeps_the_mean_while_nodes_are_absent(name: str, seed: int, absences: list[set[int]]) -> None:
    """The mean of z is that of the last predictions that each node sent, whoever was absent in the meantime."""
    strategy = started(topology.build(name, 6, seed=seed), consensus="tracking")
    last = torch.softmax(predictions(seed, 6), dim=-1)
    strategy.teach(ROWS, predictions(seed, 6), np.ones(6, dtype=bool))
    for exchange, absent in enumerate(absences, start=1):
        present = np.array([vertex not in absent for vertex in range(6)])
        logits = predictions(seed + exchange, 6)
        strategy.teach(ROWS, logits, present)
        last[torch.from_numpy(present)] = torch.softmax(logits, dim=-1)[torch.from_numpy(present)]
        assert torch.allclose(strategy.consensus.mean(0), last.mean(0), atol=1e-5)


@pytest.mark.parametrize("consensus", ["tracking", "gradient"])
def test_steady_predictions_bring_agreement(consensus: str) -> None:
    strategy = started(nx.cycle_graph(6), consensus=consensus if consensus == "tracking" else "gradient(eta=0.02)")
    logits, everyone = predictions(0, 6), np.ones(6, dtype=bool)
    for _ in range(300):
        strategy.teach(ROWS, logits, everyone)
    mean = torch.softmax(logits, dim=-1).mean(0)
    # The gradient update weighs a node's own prediction too, so it agrees up to eta only.
    assert torch.allclose(strategy.consensus, mean.expand(6, 4, 3), atol=1e-4 if consensus == "tracking" else 0.08)


def test_gradient_update_by_hand() -> None:
    strategy = started(nx.path_graph(2), consensus="gradient(eta=0.25, clamp=false)")
    first, second = predictions(0, 2), predictions(1, 2)
    everyone = np.ones(2, dtype=bool)
    strategy.teach(ROWS, first, everyone)
    before = strategy.consensus.clone()
    strategy.teach(ROWS, second, everyone)
    mixed = before.mean(0)  # Metropolis weights of one edge are 1/2
    by_hand = mixed - 0.25 * (before - torch.softmax(second, dim=-1))
    assert torch.allclose(strategy.consensus, by_hand, atol=1e-6)


def test_clamping_keeps_soft_decisions_in_the_unit_interval() -> None:
    free, clamped = (
        started(nx.cycle_graph(6), consensus=f"gradient(eta=1.0, clamp={clamp})") for clamp in (False, True)
    )
    for exchange in range(20):
        for strategy in (free, clamped):
            strategy.teach(ROWS, predictions(exchange, 6), np.ones(6, dtype=bool))
    assert free.consensus.min() < 0  # what the report found
    assert clamped.consensus.min() >= 0
    assert clamped.consensus.max() <= 1


def test_absent_nodes_keep_their_consensus_and_lose_their_weight() -> None:
    strategy = started(nx.path_graph(3), consensus="gradient(eta=0.5, clamp=false)")
    strategy.teach(ROWS, predictions(0, 3), np.ones(3, dtype=bool))
    before = strategy.consensus.clone()
    teachers = strategy.teach(ROWS, predictions(1, 3), np.array([True, True, False]))
    assert set(teachers) == {0, 1}
    assert torch.equal(strategy.consensus[2], before[2])
    now = torch.softmax(predictions(1, 3), dim=-1)
    # Metropolis weights of the path's middle: 1/3 each; the absent neighbor's third goes back to the node itself.
    mixed = before[0] / 3 + 2 * before[1] / 3
    assert torch.allclose(strategy.consensus[1], mixed - 0.5 * (before[1] - now[1]), atol=1e-6)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("num_nodes", [4, 16, 64])
@pytest.mark.parametrize("name", [name for name in topology.names() if name not in ("varying", "one-peer-exponential")])
def test_the_gradient_consensus_settles_without_clamping(name: str, num_nodes: int, eta: float) -> None:
    options = {"degree": 3} if name == "regular" and num_nodes == 4 else {}
    if name == "small-world" and num_nodes == 4:
        options = {"degree": 2}
    if name == "torus" and num_nodes == 4:
        num_nodes = 9
    strategy = started(topology.build(name, num_nodes, **options), consensus=f"gradient(eta={eta}, clamp=false)")
    logits, everyone = predictions(0, num_nodes), np.ones(num_nodes, dtype=bool)
    strategy.teach(ROWS, predictions(1, num_nodes), everyone)
    moves = []
    for _ in range(400):
        before = strategy.consensus.clone()
        strategy.teach(ROWS, logits, everyone)
        moves.append(float((strategy.consensus - before).abs().max()))
    assert max(moves) < 2
    assert moves[-1] < 1e-5  # of values around 1, in float32


def test_other_dissimilarities_get_probabilities() -> None:
    strategy = started(nx.cycle_graph(4), dissimilarity="kl", consensus="tracking")
    for exchange in range(5):
        teachers = strategy.teach(ROWS, predictions(exchange, 4), np.ones(4, dtype=bool))
    for teacher in teachers.values():
        assert torch.allclose(teacher.soft_labels.sum(-1), torch.ones(4), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rho": -1.0}, "rho = -1.0"),
        ({"consensus": "gradient(eta=0.0)"}, "eta = 0.0"),
        ({"consensus": "vote"}, "gradient, tracking"),
    ],
)
def test_settings_are_checked(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        DDist(nx.cycle_graph(3), **options)
