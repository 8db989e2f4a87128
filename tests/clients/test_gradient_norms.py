"""Norms of gradients that nodes report, against gradients by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import blobs

from flower_kd import dissimilarity
from flower_kd.clients import Node, ShuffledBatches
from flower_kd.clients.training import train
from flower_kd.pooling import Teacher
from flower_kd.protocol import Order

ROWS = np.arange(24)
SOFT = torch.softmax(torch.randn(2, 24, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
ORDER = Order(1, 1, kd_weight=0.5, label_weight=0.25, dissimilarity="td", temperature=2.0, record_gradients=True)


def node(batch_size: int = 8, *, batch_norm: bool = False, augment: str = "none") -> Node:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 4), *([torch.nn.BatchNorm1d(4)] if batch_norm else []), torch.nn.Linear(4, 3)]
    model = torch.nn.Sequential(*layers)
    return Node(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        private=ShuffledBatches(*blobs(0, 20), batch_size=batch_size, seed=0, vertex=0),
        reference=blobs(1000, 24)[0],
        test=[blobs(2000, 50)],
        classes=3,
        augment=augment,
    )


def kd_norm(built: Node, order: Order, teacher: Teacher) -> float:
    """Return the mean norm of each row's own gradient, row by row."""
    found = []
    logits = built.model.train()(built.reference).detach()
    weights = torch.ones(1) if teacher.soft_labels.ndim == 2 else torch.ones(len(teacher.soft_labels))
    weights = teacher.weights if teacher.weights is not None else weights
    for row in range(len(logits)):
        own = logits[row : row + 1].clone().requires_grad_()
        labels = teacher.soft_labels.reshape(-1, *teacher.soft_labels.shape[-2:])[:, row : row + 1]
        measure = dissimilarity.get(order.dissimilarity, "none")
        values = [measure(dissimilarity.soften(own, order.temperature), q.log()).sum() for q in labels]
        sum(w * value for w, value in zip(weights, values, strict=True)).backward()
        found.append(own.grad.norm().item())
    return float(np.mean(found))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_norms_are_those_of_each_rows_own_loss(reduction: str, batch_norm: bool) -> None:
    order = replace(ORDER, kd_reduction=reduction, kd_weight=0.01)
    built, by_hand = node(batch_norm=batch_norm), node(batch_norm=batch_norm)
    metrics, _ = train(built, order, Teacher(SOFT[0]), ROWS, vertex=0)
    assert metrics["kd-gradient"] == pytest.approx(kd_norm(by_hand, order, Teacher(SOFT[0])), rel=1e-4)
    ((inputs, labels),) = by_hand.private.batches(0, 1)
    logits = node(batch_norm=batch_norm).model(inputs).detach().requires_grad_()
    F.cross_entropy(logits, labels, reduction="sum").backward()
    assert metrics["label-gradient"] == pytest.approx(logits.grad.norm(dim=-1).mean().item(), rel=1e-4)


def test_they_depend_neither_on_factors_nor_on_the_batch() -> None:
    def reported(**changes: float) -> dict[str, float]:
        return train(node(20), replace(ORDER, **changes), Teacher(SOFT[0]), ROWS, vertex=0)[0]

    first, other = reported(), reported(kd_weight=30.0, label_weight=0.0, reference_batch=24)
    for name in ("kd-gradient", "label-gradient"):
        assert first[name] == pytest.approx(other[name], rel=1e-4)


def test_teachers_that_stay_apart_and_their_weights() -> None:
    teacher = Teacher(SOFT, torch.tensor([0.5, 1.5]))
    metrics, _ = train(node(), ORDER, teacher, ROWS, vertex=0)
    assert metrics["kd-gradient"] == pytest.approx(kd_norm(node(), ORDER, teacher), rel=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_teachers_that_are_asked_on_private_batches(reduction: str) -> None:
    order, teacher = replace(ORDER, kd_reduction=reduction), Teacher(SOFT[0, :8])
    metrics, _ = train(node(), order, None, ROWS, vertex=0, ask=lambda _: teacher)
    alone, _ = train(node(), order, None, ROWS, vertex=0)
    by_hand = node()
    ((by_hand.reference, _),) = by_hand.private.batches(0, 1)
    assert metrics["kd-gradient"] == pytest.approx(kd_norm(by_hand, order, teacher), rel=1e-4)
    assert metrics["label-gradient"] == alone["label-gradient"]


def test_mixed_labels() -> None:
    metrics, _ = train(node(augment="mixup"), ORDER, Teacher(SOFT[0]), ROWS, vertex=0)
    assert 0 < metrics["label-gradient"] < 2**0.5


def test_means_over_steps_and_no_change_of_training() -> None:
    with_norms, without = node(), node()
    metrics, _ = train(with_norms, replace(ORDER, num_steps=3), Teacher(SOFT[0]), ROWS, vertex=0)
    plain, _ = train(without, replace(ORDER, num_steps=3, record_gradients=False), Teacher(SOFT[0]), ROWS, vertex=0)
    assert not {"kd-gradient", "label-gradient"} & plain.keys()
    for ours, theirs in zip(with_norms.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    first, _ = train(node(), ORDER, Teacher(SOFT[0]), ROWS, vertex=0)
    assert metrics["kd-gradient"] != pytest.approx(first["kd-gradient"], rel=1e-3)


def test_without_a_teacher_only_labels_are_reported() -> None:
    metrics, _ = train(node(), ORDER, None, ROWS, vertex=0)
    assert "label-gradient" in metrics
    assert "kd-gradient" not in metrics
