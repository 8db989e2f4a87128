"""What it takes to use a trained model without its run: its factory, its input and its labels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache

CARDS_FILE = "model.toml"


def weights_file(vertex: int, *, best: bool = False) -> str:
    """Return the name of the file with a node's final weights, or with the best."""
    return f"node-{vertex}{'-best' if best else ''}.safetensors"


@dataclass(frozen=True)
class ModelCard:
    """How a trained model is built and used.

    Parameters
    ----------
    factory : str
        The model as in the run config (`flower_kd.models.build`).
    classes : int
        Width of the logits.
    shape : tuple of int
        Channels, height and width of an image.
    mean : tuple of float
        By channel: what is subtracted from images in [0, 1].
    std : tuple of float
        By channel: what they are divided by after that.
    labels : tuple of str
        The names of the classes.
    two_heads : bool
        Whether the model is the backbone of a `TwoHeads`.
    """

    factory: str
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]
    two_heads: bool = False

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} std for {self.shape[0]} channels")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be finite, and std above 0")
        if len(self.labels) != self.classes:
            raise ValueError(f"{len(self.labels)} labels for {self.classes} classes")

    def to_json(self) -> str:
        """Return the card as text."""
        return json.dumps(asdict(self))

    @classmethod
    @lru_cache(maxsize=64)  # most nodes have equal ones
    def from_json(cls, text: str) -> ModelCard:
        """Return the card of a text; raises ValueError if it is not one."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(text)


@dataclass(frozen=True)
class Score:
    """How a node's model did on its validation samples.

    Parameters
    ----------
    round : int
        After which it was evaluated.
    accuracy, loss : float
        In [0, 1]; mean cross entropy in nats.
    """

    round: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Cards:
    """The cards of a run's models, in one file.

    Parameters
    ----------
    of : mapping
        Cards by vertex.
    names : mapping
        Vertices by name, if the graph has names.
    best : mapping
        By vertex, the score of a node's best model, if it kept one.
    """

    of: Mapping[int, ModelCard]
    names: Mapping[str, int] = field(default_factory=dict)
    best: Mapping[int, Score] = field(default_factory=dict)

    def to_toml(self) -> str:
        """Return the content of model.toml: nodes with equal cards share a table."""
        import tomli_w

        nodes: dict[ModelCard, list[int]] = {}
        for vertex, card in sorted(self.of.items()):
            nodes.setdefault(card, []).append(vertex)
        tables = [{"nodes": vertices} | asdict(card) for card, vertices in nodes.items()]
        more = {
            "names": dict(self.names),
            "best": {str(vertex): asdict(score) for vertex, score in sorted(self.best.items())},
        }
        return tomli_w.dumps({"models": tables} | {key: table for key, table in more.items() if table})

    @classmethod
    def from_toml(cls, text: str) -> Cards:
        """Return the cards in the content of model.toml; raises ValueError if it has another form."""
        import tomllib

        from pydantic import TypeAdapter

        found = tomllib.loads(text)
        names = TypeAdapter(dict[str, int]).validate_python(found.get("names", {}))
        best = TypeAdapter(dict[int, Score]).validate_python(found.get("best", {}))
        card, vertices = TypeAdapter(ModelCard), TypeAdapter(list[int])
        of: dict[int, ModelCard] = {}
        try:
            for table in found["models"]:
                of |= dict.fromkeys(vertices.validate_python(table.pop("nodes")), card.validate_python(table))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return cls(of, names, best)
