"""A measured figure, and the clock that measures it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Figure:
    """A measured value and its target.

    Parameters
    ----------
    name : str
        Name of the figure.
    value, unit : float, str
        The measured value; a ratio has no unit.
    bound : float
        The target.
    at_most : bool
        Whether the bound is an upper bound.
    parts : dict
        The measurements from which the value was computed.
    """

    name: str
    value: float
    bound: float
    at_most: bool
    unit: str = ""
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the value is within its bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


class Clock:
    """A listener that records when each exchange ends and how long nodes trained in it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.trained: list[float] = []

    def on_stage(self, stage: str) -> None:
        """Do nothing: handshakes are not measured."""

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Record one exchange."""
        if kind == "train":
            self.ends.append(time.perf_counter())
            self.trained.append(sum(reported["seconds"] for reported in metrics.values()))

    def seconds(self) -> float:
        """Return the median seconds between the ends of consecutive exchanges."""
        return float(np.median(np.diff(self.ends)))

    def seconds_of_training(self) -> float:
        """Return the median over exchanges of the nodes' total training seconds."""
        return float(np.median(self.trained[1:]))
