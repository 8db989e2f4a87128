"""Sums over nodes and reference rows, for all poolings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd.teacher import Teacher

VALUES_AT_A_TIME = 2**20


def mix(weights: csr_array, values: Tensor) -> Tensor:
    """Return weighted sums over nodes, [nodes, ...], of values [nodes, ...] by a sparse matrix [nodes, nodes]."""
    flat = values.reshape(values.shape[0], -1).numpy()
    return torch.from_numpy(weights.astype(np.float32) @ flat).reshape(values.shape)


def by_rows(pool: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Pool some reference rows at a time, so that intermediate tensors stay small at any network size."""
    parts = logits.split(max(1, VALUES_AT_A_TIME // (logits.shape[0] * logits.shape[2])), dim=1)
    if len(parts) == 1:
        return pool(logits)
    pooled, start = torch.empty_like(logits), 0
    for part in parts:
        pooled[:, start : start + part.shape[1]] = pool(part)
        start += part.shape[1]
    return pooled


def one_teacher(soft_labels: Tensor, weights: csr_array) -> list[Teacher | None]:
    """Return the teacher of each node that has weights, from soft labels [nodes, rows, classes]."""
    taught = np.diff(weights.indptr) > 0
    return [Teacher(soft_labels[node]) if taught[node] else None for node in range(len(taught))]


def normalized(values: Tensor) -> Tensor:
    """Return non-negative values [..., classes] divided by their sums over classes; zeros stay zeros."""
    return values.div_(values.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny))
