"""How the predictions of a node's neighbors become its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd.registry import Registry

_PART = 2**20  # values that are pooled at a time


@dataclass(frozen=True)
class Teacher:
    """What one node distills from.

    Parameters
    ----------
    soft_labels : Tensor
        Probabilities, [rows, classes], or [teachers, rows, classes] where each neighbor stays a teacher of its own.
    weights : Tensor or None
        [teachers], positive, with a mean of 1, for teachers that stay apart.
    """

    soft_labels: Tensor
    weights: Tensor | None = None


class Pooling(Protocol):
    """Makes a teacher a node, or None for a node that nobody teaches in this exchange."""

    def __call__(self, logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
        """Return the teachers, in the order of vertices.

        Parameters
        ----------
        logits : Tensor
            What the nodes sent, [nodes, rows, classes]; those of nodes without weight are never read.
        weights : csr_array
            [nodes, nodes]: row n holds the weights node n gives to its teachers; a row sums to 1 or is empty.
        temperature : float
            T of the softmax.
        """


POOLINGS: Registry[Pooling] = Registry("pooling")


def names() -> list[str]:
    """Return the names of the poolings."""
    return POOLINGS.names()


def get(name: str) -> Pooling:
    """Return the pooling called `name`; raises InputError with the allowed names."""
    return POOLINGS.get(name)


@POOLINGS.register("mean")
def mean(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Average the soft labels (AVG of the slides; `holistic` in the follow-up study)."""
    pooled = _by_rows(lambda part: mix(weights, torch.softmax(part / temperature, dim=-1)), logits)
    return _one_teacher(pooled, weights)


@POOLINGS.register("mean-logits")
def mean_logits(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Average the logits and soften once (what the slides' public code does)."""
    pooled = _by_rows(lambda part: torch.softmax(mix(weights, part) / temperature, dim=-1), logits)
    return _one_teacher(pooled, weights)


@POOLINGS.register("pairwise")
def pairwise(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Keep each neighbor as a teacher of its own (SUM of the slides): the message grows with the degree."""
    soft_labels = torch.softmax(logits / temperature, dim=-1)
    teachers: list[Teacher | None] = []
    for node in range(weights.shape[0]):
        row = slice(weights.indptr[node], weights.indptr[node + 1])
        neighbors, shares = weights.indices[row], weights.data[row]
        if len(neighbors) == 0:
            teachers.append(None)
            continue
        # A mean of 1 makes uniform weights the plain sum over neighbors.
        scaled = torch.from_numpy((shares * len(shares) / shares.sum()).astype(np.float32))
        teachers.append(Teacher(soft_labels[torch.from_numpy(neighbors.astype(np.int64))], scaled))
    return teachers


def mix(weights: csr_array, values: Tensor) -> Tensor:
    """Return weighted sums over nodes, [nodes, ...], of values [nodes, ...] by a sparse matrix [nodes, nodes]."""
    flat = values.reshape(values.shape[0], -1).numpy()
    return torch.from_numpy(weights.astype(np.float32) @ flat).reshape(values.shape)


def _by_rows(pool: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Pool some reference rows at a time: what stands between logits and teachers stays small at any network size."""
    parts = logits.split(max(1, _PART // (logits.shape[0] * logits.shape[2])), dim=1)
    if len(parts) == 1:
        return pool(logits)
    pooled, start = torch.empty_like(logits), 0
    for part in parts:
        pooled[:, start : start + part.shape[1]] = pool(part)
        start += part.shape[1]
    return pooled


def _one_teacher(soft_labels: Tensor, weights: csr_array) -> list[Teacher | None]:
    taught = np.diff(weights.indptr) > 0
    return [Teacher(soft_labels[node]) if taught[node] else None for node in range(len(taught))]
