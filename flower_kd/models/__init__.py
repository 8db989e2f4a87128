"""Models by name or from the user's own factory, with initial weights determined by a seed."""

from flower_kd.models import dense, lenet, resnet  # noqa: F401  (they register their models)
from flower_kd.models import pruning as pruning
from flower_kd.models.assignment import assign, parse
from flower_kd.models.factory import build, num_parameters
from flower_kd.models.registry import MODELS, ModelFactory
from flower_kd.models.two_heads import TwoHeads

__all__ = ["MODELS", "ModelFactory", "TwoHeads", "assign", "build", "names", "num_parameters", "parse", "pruning"]


def names() -> list[str]:
    """Return the names of the models that come with the package."""
    return MODELS.names()
