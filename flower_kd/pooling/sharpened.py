"""Means that are sharpened: what nodes with different data agree on is less certain than each of them."""

from __future__ import annotations

import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd.pooling.registry import POOLINGS
from flower_kd.pooling.rows import by_rows, mix, normalized, one_teacher
from flower_kd.ranges import Positive
from flower_kd.teacher import Teacher


@POOLINGS.register("era")
def era(logits: Tensor, weights: csr_array, temperature: float, *, sharpness: Positive = 10.0) -> list[Teacher | None]:
    """Sharpen the mean by a softmax: `softmax(sharpness * mean)` (Itahara et al., IEEE TMC 2021).

    Entropy reduction aggregation of DS-FL; `sharpness` is the inverse of its temperature, 0.1. A mean that is uniform
    remains so, and a certain one becomes less so the more classes there are: `power` keeps it.

    Parameters
    ----------
    sharpness : float
        Factor of the mean soft labels in the softmax, above 0.
    """

    def pool(part: Tensor) -> Tensor:
        mean = mix(weights, torch.softmax(part / temperature, dim=-1))
        return torch.softmax(mean.mul_(sharpness), dim=-1)

    return one_teacher(by_rows(pool, logits), weights)


@POOLINGS.register("power")
def power(logits: Tensor, weights: csr_array, temperature: float, *, beta: Positive = 1.5) -> list[Teacher | None]:
    """Raise the mean to a power and normalize: `mean^beta / sum(mean^beta)` (Azuma et al. 2025).

    Enhanced ERA of SCARLET (arXiv 2504.19602).

    Parameters
    ----------
    beta : float
        The power, above 0: 1 is the plain mean, more is sharper.
    """

    def pool(part: Tensor) -> Tensor:
        mean = mix(weights, torch.softmax(part / temperature, dim=-1))
        # Relative to the largest: among many classes, a high power of all of them would be 0.
        largest = mean.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)
        return normalized(mean.div_(largest).pow_(beta))

    return one_teacher(by_rows(pool, logits), weights)
