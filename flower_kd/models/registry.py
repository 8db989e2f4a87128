"""Models by name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Protocol

from annotated_types import Interval
from torch import nn

from flower_kd.parts.registry import Registry
from flower_kd.parts.text import is_own


class ModelFactory(Protocol):
    """Makes a classifier."""

    def __call__(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """Return a model from images [batch, *shape] (channels, height, width) to logits [batch, num_classes]."""


Pruned = Annotated[float, Interval(ge=0, lt=1)]


def of_every_model(*, prune: Pruned = 0.0) -> None:
    """Every model: prune is the share of each layer's weights that are zero and stay zero, those of least magnitude."""


MODELS: Registry[ModelFactory] = Registry(
    "model", group="flower_kd.models", given=("num_classes", "shape"), common=of_every_model
)


def check(text: str) -> None:
    """Raise InputError if there is no such model, or its settings do not fit.

    A `module:attribute` whose module is not on this machine passes: a server need not have what its nodes train.
    """
    name = MODELS.parse(text).name
    if not is_own(name) or _is_here(name.partition(":")[0]):
        MODELS.bind(text)


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
    except (
        Exception,
        SystemExit,
    ):  # importing its package fails, and so will importing the module, with a better error
        return True
