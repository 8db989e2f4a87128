"""Models by name."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from flower_kd.registry import Registry


class ModelFactory(Protocol):
    """Makes a classifier."""

    def __call__(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """Return a model from images [batch, *shape] (channels, height, width) to logits [batch, num_classes]."""


MODELS: Registry[ModelFactory] = Registry("model")
