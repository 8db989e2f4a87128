"""Poolings of predicted labels."""

from __future__ import annotations

import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd.pooling.registry import POOLINGS
from flower_kd.pooling.rows import by_rows, mix, normalized, one_teacher
from flower_kd.teacher import Teacher

_ROUNDING = 1e-5  # sums of weights that differ less are equal


@POOLINGS.register("vote")
def vote(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Take the label that most neighbors predict; the labels of a tie share the row equally.

    Neighbors vote with their weights; nothing depends on the temperature.
    """

    def pool(part: Tensor) -> Tensor:
        ballots = torch.zeros_like(part).scatter_(-1, part.argmax(dim=-1, keepdim=True), 1.0)
        votes = mix(weights, ballots)
        return normalized((votes >= votes.amax(dim=-1, keepdim=True) - _ROUNDING).to(part.dtype))

    return one_teacher(by_rows(pool, logits), weights)
