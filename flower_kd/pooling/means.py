"""Means over neighbors, and no mean at all."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd.pooling.registry import POOLINGS
from flower_kd.pooling.rows import by_rows, mix, one_teacher
from flower_kd.teacher import Teacher


@POOLINGS.register("mean")
def mean(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Average the soft labels (AVG of Molo et al., SISAP 2024)."""
    pooled = by_rows(lambda part: mix(weights, torch.softmax(part / temperature, dim=-1)), logits)
    return one_teacher(pooled, weights)


@POOLINGS.register("mean-logits")
def mean_logits(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Average the logits and soften once (as the public code of Molo et al., SISAP 2024, does)."""
    pooled = by_rows(lambda part: torch.softmax(mix(weights, part) / temperature, dim=-1), logits)
    return one_teacher(pooled, weights)


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
