import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from flower_kd import pooling, topology
from flower_kd.strategies.neighbor_kd import teacher_weights

ROBUST = ["median", "trimmed-mean", "geometric-median"]


def complete_votes(votes: int) -> csr_array:
    return csr_array(np.full((votes, votes), 1 / votes))


def logits_of(seed: int, nodes: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(nodes, 4, 5, generator=torch.Generator().manual_seed(seed))


def taught(name: str, logits: torch.Tensor, weights: csr_array, node: int = 0) -> torch.Tensor:
    teacher = pooling.get(name)(logits, weights, 2.0)[node]
    assert teacher is not None
    return teacher.soft_labels


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(ROBUST), votes=st.integers(2, 12), seed=st.integers(0, 99))
def test_equal_votes_are_their_own_center(name: str, votes: int, seed: int) -> None:
    logits = logits_of(seed, 1).expand(votes, 4, 5)
    pooled = taught(name, logits, complete_votes(votes))
    assert torch.allclose(pooled, torch.softmax(logits[0] / 2, dim=-1), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(ROBUST), votes=st.integers(2, 12), seed=st.integers(0, 99), scale=st.floats(0, 1e4))
def test_robust_teachers_are_distributions(name: str, votes: int, seed: int, scale: float) -> None:
    pooled = taught(name, logits_of(seed, votes, scale), complete_votes(votes))
    assert (pooled >= 0).all()
    assert torch.allclose(pooled.sum(-1), torch.ones(4), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(ROBUST), votes=st.integers(2, 12), seed=st.integers(0, 99))
def test_the_order_of_neighbors_does_not_matter(name: str, votes: int, seed: int) -> None:
    logits, weights = logits_of(seed, votes), complete_votes(votes)
    order = 1 + torch.randperm(votes - 1, generator=torch.Generator().manual_seed(seed))
    shuffled = torch.cat([logits[:1], logits[order]])
    assert torch.allclose(taught(name, logits, weights), taught(name, shuffled, weights), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(votes=st.integers(3, 12), seed=st.integers(0, 99), data=st.data())
def test_a_minority_cannot_move_the_center_out_of_the_honest_range(votes: int, seed: int, data: st.DataObject) -> None:
    """The median is between the honest votes in each class, and so is the trimmed mean where it drops all liars."""
    liars = data.draw(st.integers(1, (votes - 1) // 2))
    dropped = min(max(1, votes // 5), (votes - 1) // 2)
    honest = torch.softmax(logits_of(seed, votes - liars), dim=-1)
    lies = torch.softmax(logits_of(seed + 1, liars, scale=100.0), dim=-1)
    everyone = torch.cat([lies, honest])[torch.randperm(votes, generator=torch.Generator().manual_seed(seed))]
    low, high = honest.amin(0) - 1e-6, honest.amax(0) + 1e-6
    centers = [pooling.Median().center(everyone)] + (
        [pooling.TrimmedMean().center(everyone)] if liars <= dropped else []
    )
    for center in centers:
        assert ((low <= center) & (center <= high)).all()


@settings(max_examples=40, deadline=None)
@given(votes=st.integers(3, 12), seed=st.integers(0, 99), data=st.data())
def test_a_minority_moves_the_geometric_median_little(votes: int, seed: int, data: st.DataObject) -> None:
    """Around the honest votes' ball, liars add what their constant force moves it against the smoothing."""
    liars = data.draw(st.integers(1, max(1, votes // 3)))
    middle = torch.softmax(logits_of(seed, 1), dim=-1)
    honest = middle + 0.01 * logits_of(seed + 1, votes - liars, scale=1.0)
    lies = torch.softmax(logits_of(seed + 2, liars, scale=100.0), dim=-1)
    radius = (honest - middle).norm(dim=-1).max()
    away = (pooling.GeometricMedian().center(torch.cat([lies, honest])) - middle[0]).norm(dim=-1)
    assert (away <= radius + 0.08 * liars / (votes - liars) + 1e-3).all()


@pytest.mark.parametrize("name", ROBUST)
def test_two_neighbors_and_the_node_itself_outvote_one_liar_where_the_mean_does_not(name: str) -> None:
    honest = torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0])
    liar = torch.tensor([0.0, 60.0, 0.0, 0.0, 0.0])
    logits = torch.stack([honest, liar, honest])[:, None]
    weights = complete_votes(3)
    assert taught("mean", logits, weights)[0].argmax() != 0 or taught("mean", logits, weights)[0, 1] > 0.3
    pooled = taught(name, logits, weights)[0]
    assert pooled.argmax() == 0
    assert pooled[1] < 0.2


@pytest.mark.parametrize("name", ROBUST)
def test_weights_only_say_who_votes(name: str) -> None:
    uneven = csr_array(np.array([[0.1, 0.7, 0.2], [0.2, 0.8, 0.0], [0.3, 0.0, 0.7]]))
    first, second, third = pooling.get(name)(logits_of(0, 3), uneven, 2.0)
    assert first is not None
    assert second is not None
    assert third is not None
    assert torch.equal(first.soft_labels, taught(name, logits_of(0, 3), complete_votes(3)))
    assert torch.allclose(second.soft_labels, torch.softmax(logits_of(0, 3) / 2, dim=-1)[:2].mean(0), atol=1e-5)


@pytest.mark.parametrize("name", ROBUST)
def test_a_node_without_its_own_vote_or_without_neighbors_has_no_teacher(name: str) -> None:
    weights = csr_array(np.array([[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]))
    first, second, third = pooling.get(name)(logits_of(0, 3), weights, 2.0)
    assert first is None
    assert second is None
    assert third is not None


@pytest.mark.parametrize("name", ROBUST)
def test_nodes_of_any_degree_are_pooled_in_parts_with_the_same_result(name, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = teacher_weights(topology.build("scale-free", 30, seed=1), "uniform", with_self=True)
    logits = logits_of(0, 30)
    whole = pooling.get(name)(logits, weights, 2.0)
    for node, teacher in enumerate(whole):
        voters = weights.indices[weights.indptr[node] : weights.indptr[node + 1]]
        among = logits[torch.from_numpy(voters.astype(np.int64))]
        alone = taught(name, among, complete_votes(len(voters)), node=int(np.flatnonzero(voters == node)[0]))
        assert teacher is not None
        assert torch.allclose(teacher.soft_labels, alone, atol=1e-6)
    monkeypatch.setattr("flower_kd.pooling.rows.VALUES_AT_A_TIME", 200)
    for teacher, other in zip(whole, pooling.get(name)(logits, weights, 2.0), strict=True):
        assert teacher is not None
        assert other is not None
        assert torch.allclose(teacher.soft_labels, other.soft_labels, atol=1e-6)


@pytest.mark.parametrize("name", ["median", "trimmed-mean"])
def test_where_votes_agree_on_nothing_a_node_keeps_its_own(name: str) -> None:
    """Scaled up, what little is common to three votes would be the liar's."""
    logits = 1e4 * torch.eye(3)[:, None]  # three nodes, each sure of another class
    for node in range(3):
        assert torch.allclose(taught(name, logits, complete_votes(3), node)[0], torch.eye(3)[node])


def test_what_the_votes_leave_open_goes_to_the_own_vote() -> None:
    votes = torch.tensor([[0.6, 0.4, 0.0], [0.2, 0.0, 0.8], [0.0, 0.5, 0.5]])  # median 0.2, 0.4, 0.5: more than 1
    pooled = taught("median", 2 * votes.clamp_min(1e-9).log()[:, None], complete_votes(3))[0]
    assert torch.allclose(pooled, torch.tensor([0.2, 0.4, 0.5]) / 1.1, atol=1e-5)
    votes = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.0, 0.9], [0.0, 0.9, 0.1]])  # median 0.1, 0.1, 0.1: 0.7 are open
    pooled = taught("median", 2 * votes.clamp_min(1e-9).log()[:, None], complete_votes(3))[0]
    assert torch.allclose(pooled, 0.1 + 0.7 * votes[0], atol=1e-5)


def test_centers_by_hand() -> None:
    votes = torch.tensor([0.0, 1.0, 2.0, 4.0, 100.0])[:, None, None, None]
    assert pooling.Median().center(votes).item() == 2
    assert pooling.Median().center(votes[:4]).item() == 1.5
    assert pooling.TrimmedMean().center(votes).item() == pytest.approx(7 / 3)
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])[:, None, None]  # Fermat's point: the center
    assert torch.allclose(pooling.GeometricMedian().center(corner)[0, 0], torch.tensor([0.5, 0.75**0.5 / 3]), atol=0.01)
