import numpy as np
import torch
from scipy.sparse import csr_array

from flower_kd import pooling

LOGITS = torch.tensor([[[0.0, 2.0, -1.0]], [[1.0, 1.0, 0.0]], [[-3.0, 0.0, 4.0]]])  # [nodes=3, rows=1, classes=3]
WEIGHTS = csr_array(np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_mean_averages_soft_labels() -> None:
    soft = torch.softmax(LOGITS / 2, dim=-1)
    first, second, third = pooling.get("mean")(LOGITS, WEIGHTS, 2.0)
    assert first is not None
    assert second is not None
    assert torch.allclose(first.soft_labels, 0.25 * soft[1] + 0.75 * soft[2])
    assert torch.allclose(second.soft_labels, soft[0])
    assert third is None  # nobody teaches node 2


def test_mean_logits_softens_once() -> None:
    first = pooling.get("mean-logits")(LOGITS, WEIGHTS, 2.0)[0]
    assert first is not None
    assert torch.allclose(first.soft_labels, torch.softmax((0.25 * LOGITS[1] + 0.75 * LOGITS[2]) / 2, dim=-1))


def test_pairwise_keeps_teachers_apart() -> None:
    first, second, third = pooling.get("pairwise")(LOGITS, WEIGHTS, 1.0)
    assert first is not None
    assert second is not None
    assert first.weights is not None
    assert first.soft_labels.shape == (2, 1, 3)
    assert torch.allclose(first.weights, torch.tensor([0.5, 1.5]))  # a mean of 1: uniform weights give the plain sum
    assert torch.equal(second.soft_labels[0], torch.softmax(LOGITS[0], dim=-1))
    assert third is None
