"""Models by name."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from flower_kd.errors import InputError
from flower_kd.registry import Registry, unknown


class ModelFactory(Protocol):
    """Makes a classifier."""

    def __call__(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """Return a model from images [batch, *shape] (channels, height, width) to logits [batch, num_classes]."""


MODELS: Registry[ModelFactory] = Registry("model")


def check_name(name: str) -> None:
    """Raise InputError if a name is neither registered nor of the form "module:factory"."""
    if ":" not in name and name not in MODELS:
        raise InputError(unknown(MODELS.kind, name, [*MODELS.names(), "module:factory"]))
