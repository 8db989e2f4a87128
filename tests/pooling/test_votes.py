import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from flower_kd import pooling
from flower_kd.teacher import Teacher


def voted(labels: list[int], weights: list[float], classes: int = 4) -> torch.Tensor:
    """Return the teacher of the first node, from what the others predict."""
    logits = torch.nn.functional.one_hot(torch.tensor([0, *labels]), classes)[:, None].float()
    matrix = np.zeros((len(logits), len(logits)))
    matrix[0, 1:] = np.array(weights) / sum(weights)
    teacher = pooling.get("vote")(logits, csr_array(matrix), 2.0)[0]
    assert isinstance(teacher, Teacher)
    return teacher.soft_labels[0]


def test_the_majority_wins_and_ties_are_shared() -> None:
    assert voted([1, 2, 1], [1, 1, 1]).tolist() == [0, 1, 0, 0]
    assert voted([1, 2], [1, 1]).tolist() == [0, 0.5, 0.5, 0]
    assert voted([3, 1, 3, 1, 2], [1] * 5).tolist() == [0, 0.5, 0, 0.5]
    assert torch.allclose(voted([1, 2, 3], [1, 1, 1]), torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]))


def test_neighbors_vote_with_their_weights() -> None:
    assert voted([1, 2, 2], [3, 1, 1]).tolist() == [0, 1, 0, 0]
    assert voted([1, 2, 2, 2], [7, 2, 4, 1]).tolist() == [0, 0.5, 0.5, 0]  # a tie but for rounding


def test_how_sure_a_neighbor_is_does_not_matter() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[50.0, 0.0]], [[0.0, 0.01]], [[0.0, 0.01]]])
    weights = csr_array(np.array([[0, 1 / 3, 1 / 3, 1 / 3], *np.zeros((3, 4))]))
    for temperature in (0.1, 1.0, 50.0):
        teacher = pooling.get("vote")(logits, weights, temperature)[0]
        assert teacher is not None
        assert teacher.soft_labels.tolist() == [[0, 1]]


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_equal_votes_by_counting(labels: list[int]) -> None:
    counts = np.bincount(labels, minlength=4)
    winners = (counts == counts.max()).astype(float)
    assert np.allclose(voted(labels, [1.0] * len(labels)).numpy(), winners / winners.sum())
