"""A network with one hidden layer: the smallest model for distillation."""

from __future__ import annotations

from math import prod

from torch import nn

from flower_kd.models.registry import MODELS

HIDDEN = 64


@MODELS.register("mlp")
def mlp(*, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Return a model from images [batch, *shape] to logits [batch, num_classes] with 64 hidden ReLU units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_classes))
