"""What holds for every pooling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from flower_kd import pooling, topology
from flower_kd.errors import InputError
from flower_kd.strategies.neighbor_kd import normalized, teacher_weights
from flower_kd.teacher import Teacher
from flower_kd.wire.symbolic import EXCLUDED

SHARPENED = ["vote", "era", "power"]
MEANS_OF_LABELS = ["mean", "confidence", "entropy"]

# By node: of classes that it, its neighbors, or nobody has.
COUNTS = torch.tensor([[5.0, 0, 0, 2], [0, 7, 0, 1], [3, 3, 0, 0], [0, 0, 0, 9], [1, 0, 0, 0]])


def pooled(name: str, logits: torch.Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    pool = pooling.get(name)
    return pooling.pool(name, pool, logits, weights, temperature, COUNTS if pooling.takes_class_counts(pool) else None)


def hard(labels: list[int], excluded: float = EXCLUDED) -> torch.Tensor:
    """Return the logits [nodes, rows=1, classes=4] of nodes that send their labels only."""
    predicted = torch.as_tensor(labels)[:, None, None]
    return torch.full((len(predicted), 1, 4), excluded).scatter_(-1, predicted, 0.0)


def weights_of(seed: int, kind: str, present: list[bool]) -> csr_array:
    graph = topology.build("erdos-renyi", 5, seed=seed)
    matrix = teacher_weights(graph, kind, with_self=True)
    return normalized(matrix @ csr_array(np.diag(np.array(present, dtype=float))))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(pooling.names()),
    seed=st.integers(0, 50),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4, 1e30]),
    temperature=st.sampled_from([0.05, 1.0, 2.0, 100.0]),
    kind=st.sampled_from(["uniform", "mixing"]),
    present=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_teachers_are_distributions_whatever_the_nodes_predict_and_whoever_is_absent(
    name: str, seed: int, scale: float, temperature: float, kind: str, present: list[bool]
) -> None:
    logits = scale * torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(seed))
    logits[~torch.tensor(present)] = torch.nan  # never read
    weights = weights_of(seed, kind, present)
    for node, teacher in enumerate(pooled(name, logits, weights, temperature)):
        if teacher is None:
            continue
        assert weights.indptr[node] < weights.indptr[node + 1]
        assert (teacher.soft_labels >= 0).all()
        assert torch.allclose(teacher.soft_labels.sum(-1), torch.ones(3), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([name for name in pooling.names() if name not in ("pairwise", "era")]),  # era excludes none
    labels=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    temperature=st.sampled_from([0.05, 1.0, 2.0, 100.0]),
    kind=st.sampled_from(["uniform", "mixing"]),
    excluded=st.sampled_from([EXCLUDED, -1e30]),
)
def test_a_label_that_no_teacher_predicts_gets_nothing(
    name: str, labels: list[int], temperature: float, kind: str, excluded: float
) -> None:
    weights = weights_of(0, kind, [True] * 5)
    for node, teacher in enumerate(pooled(name, hard(labels, excluded), weights, temperature)):
        assert teacher is not None
        predicted = {labels[of] for of in weights.indices[weights.indptr[node] : weights.indptr[node + 1]]}
        others = [label for label in range(4) if label not in predicted]
        assert teacher.soft_labels[0, others].sum() < 1e-6
        assert abs(teacher.soft_labels.sum() - 1) < 1e-5


@pytest.mark.parametrize("name", [*MEANS_OF_LABELS, "power(beta=1)"])
def test_means_of_hard_labels_are_shares_of_weight(name: str) -> None:
    weights = csr_array(np.array([[0.0, 0.2, 0.5, 0.3], *np.zeros((3, 4))]))
    (first, *others) = pooled(name, hard([0, 1, 3, 1]), weights, 2.0)
    assert others == [None] * 3
    assert torch.allclose(first.soft_labels, torch.tensor([[0.0, 0.5, 0.0, 0.5]]), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in pooling.names() if name not in SHARPENED])
@pytest.mark.parametrize("kind", ["uniform", "mixing"])
def test_teachers_that_agree_are_the_teacher(name: str, kind: str) -> None:
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)).expand(5, 3, 4).contiguous()
    for teacher in pooled(name, logits, weights_of(1, kind, [True] * 5), 2.0):
        assert torch.allclose(teacher.soft_labels, torch.softmax(logits[0] / 2, -1), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in pooling.names() if name != "pairwise"])
def test_some_rows_at_a_time_give_the_same_teachers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 3 * torch.randn(5, 23, 4, generator=torch.Generator().manual_seed(0))
    weights = weights_of(2, "mixing", [True] * 5)
    whole = pooled(name, logits, weights, 2.0)
    before = logits.clone()
    monkeypatch.setattr("flower_kd.pooling.rows.VALUES_AT_A_TIME", 100)
    for one, other in zip(whole, pooled(name, logits, weights, 2.0), strict=True):
        assert torch.allclose(one.soft_labels, other.soft_labels, atol=1e-6)
    assert torch.equal(logits, before)  # which belong to the strategy


def test_one_class() -> None:
    for name in pooling.names():
        pool = pooling.get(name)
        counts = torch.ones(2, 1) if pooling.takes_class_counts(pool) else None
        for teacher in pooling.pool(name, pool, torch.randn(2, 3, 1), csr_array(np.full((2, 2), 0.5)), 2.0, counts):
            assert torch.equal(teacher.soft_labels, torch.ones_like(teacher.soft_labels))


def test_unknown_name() -> None:
    words = "mean, mean-logits, pairwise, median, trimmed-mean, geometric-median, era, power, vote, confidence, entropy"
    with pytest.raises(InputError, match=words):
        pooling.get("mode")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("era(sharpness=0)", "sharpness = 0 must be above 0|sharpness = 0.* greater than 0"),
        ("power(beta=-1)", "beta = -1"),
        ("era(temperature=0.1)", "temperature is supplied by flower-kd"),
        ("class-share(class_counts=1)", "class_counts is supplied by flower-kd"),
        ("vote(beta=1)", "takes no arguments"),
    ],
)
def test_settings_out_of_range(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pooling.get(text)


def test_only_a_parameter_of_that_name_asks_for_class_counts() -> None:
    class Counting:
        def __call__(self, logits, weights, temperature, class_counts):
            return []

    assert pooling.takes_class_counts(pooling.get("class-share"))
    assert pooling.takes_class_counts(Counting())
    assert not pooling.takes_class_counts(lambda logits, weights, temperature, **more: [])
    assert not pooling.takes_class_counts(object())
    assert [name for name in pooling.names() if pooling.takes_class_counts(pooling.get(name))] == ["class-share"]
