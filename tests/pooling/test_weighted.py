import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from flower_kd import pooling

WEIGHTS = csr_array(np.array([[0.0, 0.25, 0.75], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
UNIFORM = csr_array(np.array([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
LABELS = torch.tensor([[[1.0, 1.0, 1.0]], [[0.7, 0.2, 0.1]], [[0.3, 0.3, 0.4]]])


def taught(name: str, labels: torch.Tensor, weights: csr_array, counts: torch.Tensor | None = None) -> torch.Tensor:
    """Return the first node's teacher, from soft labels at T = 2."""
    more = {} if counts is None else {"class_counts": counts}
    teacher = pooling.get(name)(2 * labels.clamp_min(1e-30).log(), weights, 2.0, **more)[0]
    assert teacher is not None
    return teacher.soft_labels[0]


def entropy_of(labels: list[float]) -> float:
    return -sum(p * math.log(p) for p in labels if p > 0)


def test_confidence_by_hand() -> None:
    first, second = 0.25 * 0.7, 0.75 * 0.4
    wanted = (first * LABELS[1] + second * LABELS[2]) / (first + second)
    assert torch.allclose(taught("confidence", LABELS, WEIGHTS), wanted[0], atol=1e-6)


def test_entropy_by_hand() -> None:
    first, second = (1 - entropy_of(LABELS[node, 0].tolist()) / math.log(3) for node in (1, 2))
    wanted = (0.25 * first * LABELS[1] + 0.75 * second * LABELS[2]) / (0.25 * first + 0.75 * second)
    assert torch.allclose(taught("entropy", LABELS, WEIGHTS), wanted[0], atol=1e-5)


def test_neighbors_that_know_nothing_weigh_nothing_beside_others_and_the_same_among_themselves() -> None:
    nothing = torch.full((1, 1, 3), 1 / 3)
    known = torch.tensor([[[0.9, 0.1, 0.0]]])
    assert torch.allclose(taught("entropy", torch.cat([nothing, nothing, known]), UNIFORM), known[0, 0], atol=1e-3)
    assert torch.allclose(taught("entropy", nothing.expand(3, 1, 3), UNIFORM), nothing[0, 0], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from(["confidence", "entropy"]), seed=st.integers(0, 99))
def test_a_surer_neighbor_has_more_say_than_in_the_mean(name: str, seed: int) -> None:
    labels = torch.softmax(3 * torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(seed)), -1)
    certainty = {"confidence": labels.amax(-1), "entropy": -torch.special.entr(labels).sum(-1)}[name]
    surer = labels[1] if certainty[1] > certainty[2] else labels[2]
    mean = (labels[1] + labels[2]) / 2
    assert (taught(name, labels, UNIFORM) - surer).norm() <= (mean - surer).norm() + 1e-6


# -- class-share -------------------------------------------------------------------------------------------------------


def test_class_share_by_hand() -> None:
    """Shares of the three classes: 1/4 and 3/4, 1 and 0, equal ones of what nobody has."""
    counts = torch.tensor([[90.0, 90.0, 90.0], [10.0, 20.0, 0.0], [30.0, 0.0, 0.0]])
    votes = torch.tensor([0.25 * 0.7 + 0.75 * 0.3, 0.2, (0.1 + 0.4) / 2])
    assert torch.allclose(taught("class-share", LABELS, UNIFORM, counts), votes / votes.sum(), atol=1e-3)


def test_class_share_with_weights_by_hand() -> None:
    counts = torch.tensor([[0.0, 0.0, 0.0], [10.0, 20.0, 0.0], [30.0, 0.0, 0.0]])
    shares = [(2.5 * 0.7 + 22.5 * 0.3) / 25, 0.2, 0.25 * 0.1 + 0.75 * 0.4]
    wanted = torch.tensor(shares) / sum(shares)
    assert torch.allclose(taught("class-share", LABELS, WEIGHTS, counts), wanted, atol=1e-3)


def test_votes_for_classes_that_their_voters_lack_still_count_where_there_are_no_others() -> None:
    """Node 1 has samples of class 0 only, node 2 of class 1 only; each predicts the other's class."""
    labels = torch.tensor([[[1.0, 1.0, 1.0]], [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    counts = torch.tensor([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0], [0.0, 50.0, 0.0]])
    pooled = taught("class-share", labels, UNIFORM, counts)
    assert torch.allclose(pooled, torch.tensor([0.5, 0.5, 0.0]), atol=1e-5)
    labels[2] = torch.tensor([0.0, 1.0, 0.0])  # now one of them votes for what it has
    assert torch.allclose(taught("class-share", labels, UNIFORM, counts), torch.tensor([0.0, 1.0, 0.0]), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 99), scale=st.sampled_from([1.0, 7.0, 1e6]))
def test_only_ratios_of_class_counts_matter(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.softmax(torch.randn(3, 2, 5, generator=generator), -1)
    counts = torch.randint(1, 1000, (3, 5), generator=generator).float()
    whole, scaled = (taught("class-share", labels, WEIGHTS, each) for each in (counts, scale * counts))
    assert torch.allclose(whole, scaled, atol=1e-3)


def test_equal_counts_are_the_mean() -> None:
    for counts in (torch.full((3, 3), 40.0), torch.zeros(3, 3)):
        mean = 0.25 * LABELS[1, 0] + 0.75 * LABELS[2, 0]
        assert torch.allclose(taught("class-share", LABELS, WEIGHTS, counts), mean, atol=1e-6)


@pytest.mark.parametrize("largest", [2.0**31, 1e12])
def test_huge_counts(largest: float) -> None:
    counts = torch.tensor([[0.0, 0.0, 0.0], [largest, 0.0, 1.0], [0.0, largest, largest]])
    pooled = taught("class-share", LABELS, UNIFORM, counts)
    votes = torch.tensor([0.7, 0.3, 0.4])
    assert torch.allclose(pooled, votes / votes.sum(), atol=1e-5)
