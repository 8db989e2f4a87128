"""Poolings that a minority of liars cannot set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd.pooling import rows
from flower_kd.pooling.registry import POOLINGS
from flower_kd.teacher import Teacher

_WEISZFELD_STEPS = 5


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
        pooled = rows.by_rows(
            lambda part: self._pool(torch.softmax(part / temperature, -1), weights, votes, taught), logits
        )
        return [Teacher(pooled[node]) if taught[node] else None for node in range(len(taught))]

    def _pool(self, soft_labels: Tensor, weights: csr_array, votes: np.ndarray, taught: np.ndarray) -> Tensor:
        """Pool nodes with the same number of votes together, in parts."""
        pooled = torch.zeros_like(soft_labels)
        for count in np.unique(votes[taught]):
            nodes = np.flatnonzero(taught & (votes == count))
            for some in np.array_split(nodes, -(-len(nodes) * count * soft_labels[0].numel() // rows.VALUES_AT_A_TIME)):
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
