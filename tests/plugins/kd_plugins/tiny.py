"""A network with one hidden layer."""

from math import prod
from typing import Annotated

from annotated_types import Ge
from torch import nn


def tiny(*, num_classes: int, shape: tuple[int, int, int], width: Annotated[int, Ge(1)] = 16) -> nn.Module:
    """Return a perceptron with a hidden layer of `width` units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), width), nn.ReLU(), nn.Linear(width, num_classes))
