"""Properties of every pooling."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd import pooling, topology
from flower_kd.pooling import Pooling, Teacher
from flower_kd.testing.attempts import attempt
from flower_kd.wire.symbolic import EXCLUDED

_ROWS, _CLASSES = 7, 4
_TEMPERATURE = 2.0


def check_pooling(part: str | Pooling) -> None:
    """Check the teachers that a pooling makes on a ring, a star and a complete graph.

    One that takes class counts is given random ones, with classes that a node, its neighbors or all nodes lack.

    Parameters
    ----------
    part : str or callable
        As in a run config, or a Pooling.

    Raises
    ------
    AssertionError
        If teachers are no distributions of the right shape, a node without weights has one, rows of nodes without
        weight are read, neighbors that agree are not followed (a teacher may be sharper, but must have the same order
        of classes), hard labels are no longer distributions, or renumbering the nodes changes more than their order.
    """
    pool = pooling.get(part) if isinstance(part, str) else part
    for name, graph in (
        ("a ring", nx.cycle_graph(6)),
        ("a star", nx.star_graph(5)),
        ("a complete graph", nx.complete_graph(5)),
    ):
        weights = topology.uniform_matrix(graph)
        logits = 3 * torch.randn(len(graph), _ROWS, _CLASSES, generator=torch.Generator().manual_seed(0))
        counts = _counts(len(graph)) if pooling.takes_class_counts(pool) else None
        teachers = _teachers(f"{name}, random logits", pool, logits, weights, counts)
        for teacher in teachers:
            assert teacher is not None, f"{name}: a node whose neighbors all sent logits has no teacher"
            _check_distribution(name, teacher)
        _check_labels(name, pool, logits, weights, counts)
        _check_agreement(name, pool, logits, weights, counts)
        _check_renumbering(name, pool, logits, weights, counts, teachers)
        _check_absence(name, pool, logits, weights, counts)


def _counts(nodes: int) -> Tensor:
    """Return numbers of samples, [nodes, classes]; each node lacks some class, and all lack the last one."""
    counts = torch.randint(0, 60, (nodes, _CLASSES), generator=torch.Generator().manual_seed(2)).float()
    counts[torch.arange(nodes), torch.arange(nodes) % (_CLASSES - 1)] = 0
    counts[:, -1] = 0
    return counts


def _teachers(
    case: str, pool: Pooling, logits: Tensor, weights: csr_array, counts: Tensor | None
) -> list[Teacher | None]:
    with attempt(case):
        name = getattr(pool, "__name__", type(pool).__name__)
        return pooling.pool(name, pool, logits, weights, _TEMPERATURE, counts)


def _check_distribution(name: str, teacher: Teacher) -> None:
    labels = teacher.soft_labels
    assert (labels >= 0).all(), f"{name}: negative soft labels"
    assert torch.allclose(labels.sum(-1), torch.ones(labels.shape[:-1]), atol=1e-4), f"{name}: rows do not sum to 1"
    if teacher.weights is not None:
        assert abs(float(teacher.weights.mean()) - 1) < 1e-5, f"{name}: weights of teachers with another mean than 1"


def _check_labels(name: str, pool: Pooling, logits: Tensor, weights: csr_array, counts: Tensor | None) -> None:
    """Let nodes send their predicted labels only."""
    labels = torch.full_like(logits, EXCLUDED).scatter_(-1, logits.argmax(-1, keepdim=True), 0.0)
    for teacher in _teachers(f"{name}, hard labels", pool, labels, weights, counts):
        assert teacher is not None, f"{name}: a node whose neighbors all sent hard labels has no teacher"
        _check_distribution(f"{name}, hard labels", teacher)


def _check_agreement(name: str, pool: Pooling, logits: Tensor, weights: csr_array, counts: Tensor | None) -> None:
    same = logits[:1].expand_as(logits).contiguous()
    order = same[0].argsort(-1)
    for teacher in _teachers(f"{name}, equal logits", pool, same, weights, counts):
        assert teacher is not None
        labels = teacher.soft_labels.gather(-1, order.expand_as(teacher.soft_labels))
        assert (labels.diff(dim=-1) >= -1e-4).all(), f"{name}: neighbors that all predict the same are not followed"
        assert (labels[..., -1] > labels[..., 0]).all(), f"{name}: neighbors that all predict the same are ignored"


def _check_renumbering(
    name: str,
    pool: Pooling,
    logits: Tensor,
    weights: csr_array,
    counts: Tensor | None,
    teachers: list[Teacher | None],
) -> None:
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    index = order.numpy()
    moved = None if counts is None else counts[order]
    renumbered = _teachers(f"{name}, renumbered", pool, logits[order], csr_array(weights[index][:, index]), moved)
    for old, new in zip(index, renumbered, strict=True):
        before = teachers[old]
        assert before is not None
        assert new is not None, f"{name}: a node has no teacher under another number"
        assert torch.allclose(_pooled(before), _pooled(new), atol=1e-4), f"{name}: renumbering nodes changes teachers"


def _pooled(teacher: Teacher) -> Tensor:
    """Return soft labels whatever the order of the teachers."""
    if teacher.soft_labels.ndim == 2:
        return teacher.soft_labels
    weights = torch.ones(len(teacher.soft_labels)) if teacher.weights is None else teacher.weights
    return (weights[:, None, None] * teacher.soft_labels).sum(0)


def _check_absence(name: str, pool: Pooling, logits: Tensor, weights: csr_array, counts: Tensor | None) -> None:
    """Let the last node be absent: it has no weights, and its rows are NaN."""
    last = len(logits) - 1
    present = weights.tolil()
    present[last, :] = 0.0
    present[:, last] = 0.0
    kept = csr_array(present)
    kept.eliminate_zeros()
    sums = kept.sum(axis=1)
    kept.data = kept.data / sums.repeat(kept.indptr[1:] - kept.indptr[:-1])
    spoiled = logits.clone()
    spoiled[last] = torch.nan
    *_, absent = _teachers(f"{name}, a node without weights whose rows are NaN", pool, spoiled, kept, counts)
    assert absent is None, f"{name}: a node without weights has a teacher"
    # A node that sent nothing itself still has neighbors.
    unheard = weights.tolil()
    unheard[:, last] = 0.0
    heard = csr_array(unheard)
    heard.eliminate_zeros()
    heard.data = heard.data / heard.sum(axis=1).repeat(np.diff(heard.indptr))
    _teachers(f"{name}, a node with weights whose own rows are NaN", pool, spoiled, heard, counts)
