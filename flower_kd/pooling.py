"""How the predictions of a node's neighbors are pooled into its teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, cast

import numpy as np
import torch
from annotated_types import Interval
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd import failures, quiet_log
from flower_kd.errors import InputError
from flower_kd.parts.registry import Registry
from flower_kd.seeding import torch_seeded
from flower_kd.teacher import Teacher, problem

TRIED_ROWS = 2
_PART = 2**20  # values pooled at a time
_WEISZFELD_STEPS = 5


class Pooling(Protocol):
    """Makes one teacher per node, or None for a node without a teacher in this exchange."""

    def __call__(self, logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
        """Return the teachers, in the order of vertices.

        Parameters
        ----------
        logits : Tensor
            The logits the nodes sent, [nodes, rows, classes]; those of nodes with zero weight are never read.
        weights : csr_array
            [nodes, nodes]: row n holds the weights node n gives to its teachers; a row sums to 1 or is empty.
        temperature : float
            Temperature of the softmax.
        """


# Functions, or classes whose instances are called; with the exception of their settings, as in Pooling.
POOLINGS: Registry[Callable[..., Any]] = Registry(
    "pooling", group="flower_kd.poolings", given=("logits", "weights", "temperature")
)


def names() -> list[str]:
    """Return the names of the poolings."""
    return POOLINGS.names()


def get(name: str) -> Pooling:
    """Return a pooling.

    Parameters
    ----------
    name : str
        One of `names()` or `module:attribute`, with settings in parentheses if it has any: "trimmed-mean(share=0.3)".

    Raises
    ------
    InputError
        If the name or a setting cannot be used.
    """
    return cast(Pooling, POOLINGS.make(name))


def pool(name: str, pooling: Pooling, logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Return a pooling's teachers, one or None per node; the arguments after `pooling` are its own.

    Raises
    ------
    InputError
        If the pooling, known by `name`, fails or returns anything else.
    """
    with failures.named(f"pooling {name!r}"):
        teachers = pooling(logits, weights, temperature)
    if not isinstance(teachers, list | tuple):
        raise InputError(f"pooling {name!r} returns a {type(teachers).__name__}, not a list of teachers, one per node")
    if len(teachers) != len(logits):
        raise InputError(f"pooling {name!r} returns {len(teachers)} teachers for {len(logits)} nodes")
    for node, found in enumerate(teachers):
        if found is not None and (wrong := problem(found, *logits.shape[1:])):
            raise InputError(f"pooling {name!r}: the teacher of node {node} {wrong}")
    return list(teachers)


def check(name: str, weights: csr_array, classes: int, temperature: float) -> None:
    """Try a pooling on two rows of random logits; nothing that a run computes depends on it.

    Parameters
    ----------
    name : str
        As in `get`: an instance of its own is tried, as it may have a memory.
    weights : csr_array
        Those of the run, [nodes, nodes].
    classes, temperature : int, float
        Width of the logits; temperature of the softmax.

    Raises
    ------
    InputError
        As in `pool`.
    """
    with torch_seeded(0), quiet_log.only_errors():
        logits = torch.randn(weights.shape[0], TRIED_ROWS, classes)
        pool(name, get(name), logits, weights, temperature)


@POOLINGS.register("mean")
def mean(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Average the soft labels (AVG of Molo et al., SISAP 2024)."""
    pooled = _by_rows(lambda part: mix(weights, torch.softmax(part / temperature, dim=-1)), logits)
    return _one_teacher(pooled, weights)


@POOLINGS.register("mean-logits")
def mean_logits(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Average the logits and soften once (as the public code of Molo et al., SISAP 2024, does)."""
    pooled = _by_rows(lambda part: torch.softmax(mix(weights, part) / temperature, dim=-1), logits)
    return _one_teacher(pooled, weights)


@POOLINGS.register("pairwise")
def pairwise(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Keep each neighbor as a separate teacher (SUM of Molo et al., SISAP 2024): the message grows with the degree."""
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


class RobustPooling(ABC):
    """Pools a node's own prediction and its neighbors' so that a minority of liars cannot set the teacher.

    Each has one vote per row, whatever its weight. With v votes a majority must be honest: a node with two neighbors
    withstands one liar, a node with a single neighbor withstands none (with two votes, every pooling is the mean). A
    node whose own prediction is missing has no teacher, since a liar may hold half of the remaining votes.
    """

    @abstractmethod
    def center(self, votes: Tensor) -> Tensor:
        """Return the center [nodes, rows, classes] of non-negative votes [votes, nodes, rows, classes]."""

    def __call__(self, logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
        """Return the teachers, as in Pooling; a node votes for itself where `weights` has a diagonal entry."""
        votes = np.diff(weights.indptr)
        taught = (weights.diagonal() > 0) & (votes > 1)
        pooled = _by_rows(
            lambda part: self._pool(torch.softmax(part / temperature, -1), weights, votes, taught), logits
        )
        return [Teacher(pooled[node]) if taught[node] else None for node in range(len(taught))]

    def _pool(self, soft_labels: Tensor, weights: csr_array, votes: np.ndarray, taught: np.ndarray) -> Tensor:
        """Pool nodes with the same number of votes together, in parts."""
        pooled = torch.zeros_like(soft_labels)
        for count in np.unique(votes[taught]):
            nodes = np.flatnonzero(taught & (votes == count))
            for some in np.array_split(nodes, -(-len(nodes) * count * soft_labels[0].numel() // _PART)):
                voters = weights.indices[weights.indptr[some] + np.arange(count)[:, None]].astype(np.int64)
                center = self.center(soft_labels[torch.from_numpy(voters)])
                total = center.sum(dim=-1, keepdim=True)
                # What the votes leave open, as they disagree, goes to the node's own vote: scaling up what little is
                # common to them would hand such rows to a liar.
                own = soft_labels[torch.from_numpy(some)]
                open_share = (1 - total).clamp_min(0)
                pooled[torch.from_numpy(some)] = (center + open_share * own) / total.clamp_min(1)
        return pooled


@POOLINGS.register("median")
class Median(RobustPooling):
    """Take the coordinate-wise median (Yin, Chen, Ramchandran and Bartlett, ICML 2018, definition 1)."""

    def center(self, votes: Tensor) -> Tensor:
        """Return the median of votes."""
        ordered = votes.sort(dim=0).values
        return (ordered[(len(votes) - 1) // 2] + ordered[len(votes) // 2]) / 2


@POOLINGS.register("trimmed-mean")
@dataclass(frozen=True)
class TrimmedMean(RobustPooling):
    """Take the coordinate-wise mean without extremes (Yin, Chen, Ramchandran and Bartlett, ICML 2018, definition 2).

    Parameters
    ----------
    share : float
        Share of the votes that is dropped on each side, at least one vote but never all: it withstands that many liars.
    """

    share: Annotated[float, Interval(gt=0, lt=0.5)] = 0.2

    def center(self, votes: Tensor) -> Tensor:
        """Return the mean of the votes that are left."""
        dropped = min(max(1, int(self.share * len(votes))), (len(votes) - 1) // 2)
        return votes.sort(dim=0).values[dropped : len(votes) - dropped].mean(dim=0)


@POOLINGS.register("geometric-median")
@dataclass(frozen=True)
class GeometricMedian(RobustPooling):
    """Take the point with the least sum of Euclidean distances (Pillutla, Kakade and Harchaoui, IEEE TSP 2022).

    A fixed number of smoothed Weiszfeld steps from the coordinate-wise median. Votes within the smoothing distance of
    the center count fully, as in a mean, so that what only one neighbor knows is not lost; beyond it a vote pulls with
    a constant force. Liars move honest votes that agree by `smoothing * liars / honest` at most.

    Parameters
    ----------
    smoothing : float
        Distance from the center within which votes are averaged, of at most 2^0.5.
    """

    smoothing: Annotated[float, Interval(gt=0, le=2**0.5)] = 0.08

    def center(self, votes: Tensor) -> Tensor:
        """Return the geometric median of votes."""
        center = Median().center(votes)
        for _ in range(_WEISZFELD_STEPS):
            closeness = 1 / (votes - center).norm(dim=-1, keepdim=True).clamp_min(self.smoothing)
            center = (closeness * votes).sum(dim=0) / closeness.sum(dim=0)
        return center


def mix(weights: csr_array, values: Tensor) -> Tensor:
    """Return weighted sums over nodes, [nodes, ...], of values [nodes, ...] by a sparse matrix [nodes, nodes]."""
    flat = values.reshape(values.shape[0], -1).numpy()
    return torch.from_numpy(weights.astype(np.float32) @ flat).reshape(values.shape)


def _by_rows(pool: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Pool some reference rows at a time, so that intermediate tensors stay small at any network size."""
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
