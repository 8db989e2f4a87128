"""Sharpened mean."""

from typing import Annotated

import torch
from annotated_types import Ge
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd import pooling
from flower_kd.pooling import Teacher


def sharpened(
    logits: Tensor, weights: csr_array, temperature: float, *, power: Annotated[float, Ge(1)] = 2.0
) -> list[Teacher | None]:
    """Raise the mean of the soft labels to a power, and normalize."""
    softened = logits / power  # agreeing neighbors are followed exactly
    teachers = pooling.get("mean")(softened, weights, temperature)
    return [teacher and Teacher(_normalized(teacher.soft_labels**power)) for teacher in teachers]


def _normalized(values: Tensor) -> Tensor:
    return values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
