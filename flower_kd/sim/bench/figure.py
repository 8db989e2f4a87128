"""A measured figure, and the clock that measures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Figure:
    """What was measured here and now, and what it should reach.

    Parameters
    ----------
    name : str
        What it is.
    value, unit : float, str
        The figure; a ratio has no unit.
    bound : float
        What it should reach.
    at_most : bool
        Whether the bound is from above.
    parts : dict
        What the figure was made of.
    """

    name: str
    value: float
    bound: float
    at_most: bool
    unit: str = ""
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side of its bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


class Clock:
    """A listener that notes when each exchange ends, and how long nodes trained in it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.trained: list[float] = []

    def on_stage(self, stage: str) -> None:
        """Do nothing: handshakes are not measured."""

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Note one exchange."""
        if kind == "train":
            self.ends.append(time.perf_counter())
            self.trained.append(sum(reported["seconds"] for reported in metrics.values()))

    def seconds(self) -> float:
        """Return the median seconds from one exchange's end to the next one's."""
        return float(np.median(np.diff(self.ends)))

    def seconds_of_training(self) -> float:
        """Return the median seconds in which nodes trained in an exchange, added up."""
        return float(np.median(self.trained[1:]))
