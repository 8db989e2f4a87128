"""A mean in which neighbors weigh more the nearer their predictions are to the node's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd import dissimilarity
from flower_kd.errors import InputError
from flower_kd.pooling import rows
from flower_kd.pooling.registry import POOLINGS
from flower_kd.ranges import NonNegative
from flower_kd.teacher import Teacher


@POOLINGS.register("nearness")
class Nearness:
    """Multiply each neighbor's weight by `exp(-sharpness D)`, D from the node's own prediction to the neighbor's.

    Both are softened by the temperature. The node's own prediction only measures: it is in the mean if it is among the
    node's teachers. The weights of a node whose own prediction is missing stay as they are.

    Parameters
    ----------
    measure : str
        D: any dissimilarity, with the node as the student and one neighbor as its teacher.
    per : {"neighbor", "row"}
        Whether D is averaged over the rows of the exchange, so that a neighbor weighs the same in all, or each row
        counts for itself.
    sharpness : float
        0 leaves the weights as they are.
    """

    def __init__(
        self, *, measure: str = "js", per: Literal["neighbor", "row"] = "neighbor", sharpness: NonNegative = 5.0
    ) -> None:
        self._name = measure
        self._measure = dissimilarity.get(measure, reduction="none")
        self._per = per
        self._sharpness = sharpness

    def __call__(
        self, logits: Tensor, weights: csr_array, temperature: float, *, present: Tensor
    ) -> list[Teacher | None]:
        """Return the teachers, as in Pooling."""
        teachers: list[Teacher | None] = [None] * len(logits)
        counts = np.diff(weights.indptr)
        for count in np.unique(counts[counts > 0]):  # nodes with the same number of teachers together
            of_count = np.flatnonzero(counts == count)
            parts = -(-len(of_count) * int(count) * logits[0].numel() // rows.VALUES_AT_A_TIME)
            for nodes in np.array_split(of_count, min(parts, len(of_count))):
                places = weights.indptr[nodes] + np.arange(count)[:, None]
                voters = torch.from_numpy(weights.indices[places].astype(np.int64))
                shares = torch.from_numpy(weights.data[places]).to(logits.dtype)
                pooled = self._pool(logits, voters, shares, torch.from_numpy(nodes), temperature, present)
                for node, labels in zip(nodes.tolist(), pooled, strict=True):
                    teachers[node] = Teacher(labels)
        return teachers

    def _pool(
        self, logits: Tensor, voters: Tensor, shares: Tensor, nodes: Tensor, temperature: float, present: Tensor
    ) -> Tensor:
        """Return soft labels [nodes, rows, classes] of some nodes, from their voters and shares, [votes, nodes]."""
        distances = torch.zeros(*voters.shape, logits.shape[1])
        measuring = present[nodes]
        for part in _row_parts(logits, voters):
            own, theirs = logits[nodes[measuring], part], logits[voters[:, measuring], part]
            distances[:, measuring, part] = self._distances(own, theirs, temperature)
        if self._per == "neighbor":
            distances = distances.mean(dim=-1, keepdim=True)
        factors = torch.softmax(shares[..., None].log() - self._sharpness * distances, dim=0)
        pooled = torch.empty(len(nodes), *logits.shape[1:])
        for part in _row_parts(logits, voters):
            labels = torch.softmax(logits[voters, part] / temperature, dim=-1)
            of_part = factors if factors.shape[-1] == 1 else factors[..., part]
            pooled[:, part] = (of_part[..., None] * labels).sum(dim=0)
        return rows.normalized(pooled)

    def _distances(self, own: Tensor, theirs: Tensor, temperature: float) -> Tensor:
        """Return D [votes, nodes, rows] of logits [nodes, rows, classes] from [votes, nodes, rows, classes]."""
        log_p = dissimilarity.soften(own, temperature).expand_as(theirs)  # in pairs, also one that is multiway
        found = self._measure(log_p, dissimilarity.soften(theirs, temperature))
        if found.shape != theirs.shape[:-1] or not found.isfinite().all():
            raise InputError(
                f"dissimilarity {self._name!r} gives the pooling 'nearness' no finite value for each row of two nodes"
            )
        return found


def _row_parts(logits: Tensor, voters: Tensor) -> Iterator[slice]:
    """Yield slices of rows, so that intermediate tensors stay small with any number of neighbors."""
    size = max(1, rows.VALUES_AT_A_TIME // (voters.numel() * logits.shape[-1]))
    yield from (slice(start, start + size) for start in range(0, logits.shape[1], size))
