import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from flower_kd import dissimilarity, pooling, topology
from flower_kd.errors import InputError
from flower_kd.pooling import rows
from flower_kd.strategies import NeighborKD

ALL = torch.ones(4, dtype=torch.bool)
# Node 0 has the other three as teachers; the others have none.
WEIGHTS = csr_array(np.array([[0.0, 0.5, 0.25, 0.25], [0.0] * 4, [0.0] * 4, [0.0] * 4]))


def logits_of(seed: int, nodes: int = 4, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(nodes, 5, 3, generator=torch.Generator().manual_seed(seed))


def first(name: str, logits: torch.Tensor, weights: csr_array = WEIGHTS, present: torch.Tensor = ALL) -> torch.Tensor:
    teacher = pooling.pool(name, pooling.get(name), logits, weights, 2.0, None, present)[0]
    assert teacher is not None
    return teacher.soft_labels


@pytest.mark.parametrize("per", ["neighbor", "row"])
@pytest.mark.parametrize("measure", ["js", "kl", "msed"])
def test_by_hand(measure: str, per: str) -> None:
    logits = logits_of(0)
    log_p = (logits / 2).log_softmax(-1)
    distances = [dissimilarity.get(measure, "none")(log_p[0], log_p[m]) for m in (1, 2, 3)]
    if per == "neighbor":
        distances = [values.mean().expand(5) for values in distances]
    factors = torch.stack([w * torch.exp(-3 * values) for w, values in zip((0.5, 0.25, 0.25), distances, strict=True)])
    wanted = ((factors / factors.sum(0))[..., None] * log_p[1:].exp()).sum(0)
    assert torch.allclose(first(f"nearness(measure={measure}, per={per}, sharpness=3)", logits), wanted, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    per=st.sampled_from(["neighbor", "row"]),
    measure=st.sampled_from(dissimilarity.names()),
    sharpness=st.sampled_from([0.0, 0.5, 5.0, 1000.0]),
    scale=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_weights_sum_to_1(seed: int, per: str, measure: str, sharpness: float, scale: float) -> None:
    logits = logits_of(seed, scale=scale)
    labels = first(f"nearness(measure={measure}, per={per}, sharpness={sharpness})", logits)
    theirs = (logits[1:] / 2).softmax(-1)
    assert torch.allclose(labels.sum(-1), torch.ones(5), atol=1e-5)
    assert (labels <= theirs.amax(0) + 1e-5).all()  # the own prediction is not in the mean
    assert (labels >= theirs.amin(0) - 1e-5).all()
    if sharpness == 0:
        assert torch.allclose(labels, first("mean", logits), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations([1, 2, 3]))
def test_the_order_of_neighbors_does_not_matter(seed: int, order: list[int]) -> None:
    logits, moved = logits_of(seed), [0, *order]
    renumbered = csr_array(WEIGHTS[moved][:, moved])
    assert torch.allclose(first("nearness", logits), first("nearness", logits[moved], renumbered), atol=1e-6)


@pytest.mark.parametrize("per", ["neighbor", "row"])
@pytest.mark.parametrize("measure", [name for name in dissimilarity.names() if name != "ce"])
def test_a_neighbor_that_says_the_same_outweighs_one_that_does_not(measure: str, per: str) -> None:
    logits = logits_of(1)
    logits[1] = logits[0]
    even = csr_array(np.array([[0.0, 0.5, 0.5, 0.0], [0.0] * 4, [0.0] * 4, [0.0] * 4]))
    labels = (logits / 2).softmax(-1)
    near = first(f"nearness(measure={measure}, per={per})", logits, even)
    share = ((near - labels[2]).norm() / (labels[1] - labels[2]).norm()).item()
    assert 0.5 < share <= 1 + 1e-5


def test_the_own_prediction_is_in_the_mean_only_among_the_teachers() -> None:
    logits = logits_of(2)
    with_own = csr_array(np.array([[0.25, 0.25, 0.25, 0.25], [0.0] * 4, [0.0] * 4, [0.0] * 4]))
    sharp = "nearness(sharpness=10000)"
    assert torch.allclose(first(sharp, logits, with_own), (logits[0] / 2).softmax(-1), atol=1e-5)
    assert not torch.allclose(first(sharp, logits), (logits[0] / 2).softmax(-1), atol=1e-2)


def test_without_an_own_prediction_weights_stay_as_they_are() -> None:
    logits = logits_of(3)
    mean = first("mean", logits)
    logits[0] = torch.nan
    assert torch.allclose(first("nearness", logits, present=torch.tensor([False, True, True, True])), mean, atol=1e-6)
    # Without being told, those that nobody weighs are not read.
    teacher = pooling.pool("nearness", pooling.get("nearness"), logits, WEIGHTS, 2.0)[0]
    assert teacher is not None
    assert torch.allclose(teacher.soft_labels, mean, atol=1e-6)


def test_parts_of_rows_and_nodes_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, logits = topology.uniform_matrix(nx.star_graph(6)), logits_of(4, nodes=7)
    for name in ("nearness", "nearness(per=row)"):
        whole = pooling.pool(name, pooling.get(name), logits, weights, 2.0)
        with monkeypatch.context() as patch:
            patch.setattr(rows, "VALUES_AT_A_TIME", 10)
            parts = pooling.pool(name, pooling.get(name), logits, weights, 2.0)
        for one, other in zip(whole, parts, strict=True):
            assert torch.allclose(one.soft_labels, other.soft_labels, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nearness(measure=nope)", "unknown dissimilarity 'nope'"),
        ("nearness(per=class)", "per"),
        ("nearness(sharpness=-1)", "sharpness"),
        ("nearness(present=1)", "unknown argument of pooling 'nearness' 'present'"),
    ],
)
def test_wrong_settings(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        NeighborKD(nx.cycle_graph(3), pooling=name)


def test_the_strategy_tells_who_sent_logits() -> None:
    strategy = NeighborKD(nx.DiGraph([(0, 1), (1, 2), (2, 1), (0, 2)]), pooling="nearness(sharpness=50)")
    logits = logits_of(5, nodes=3)
    logits[1] = logits[0]
    everyone = strategy.teach(np.arange(5), logits, np.ones(3, dtype=bool))
    assert torch.allclose(everyone[1].soft_labels, (logits[0] / 2).softmax(-1), atol=0.02)
    own = strategy.teach(np.arange(5), logits, np.array([True, False, True]))
    assert not torch.allclose(own[1].soft_labels, (logits[0] / 2).softmax(-1), atol=0.02)
