"""One strategy per file; `base` is the common base of those on a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from flower_kd.strategies.base import GraphStrategy
from flower_kd.strategies.d_dist import CONSENSUS, DDist
from flower_kd.strategies.d_sgd import DSGD
from flower_kd.strategies.distillation import DistillationStrategy
from flower_kd.strategies.fedavg import FedAvg
from flower_kd.strategies.neighbor_kd import NeighborKD
from flower_kd.strategies.network import Network
from flower_kd.strategies.registry import STRATEGIES, links, sends_to, settings_ignored, settings_of
from flower_kd.strategies.silo import Silo

__all__ = [
    "CONSENSUS",
    "DSGD",
    "STRATEGIES",
    "DDist",
    "DistillationStrategy",
    "FedAvg",
    "GraphStrategy",
    "NeighborKD",
    "Network",
    "Silo",
    "build",
    "links",
    "names",
    "sends_to",
    "settings_ignored",
    "settings_of",
]


def names() -> list[str]:
    """Return the names of the strategies."""
    return STRATEGIES.names()


def build(name: str, graph: nx.Graph, settings: Mapping[str, Any]) -> Any:
    """Return a strategy on a graph, with those settings that it takes.

    Raises
    ------
    InputError
        If the strategy is unknown, or a setting is out of range.
    """
    cls = STRATEGIES.get(name)
    return cls(graph, **{key: settings[key] for key in settings_of(cls) if key in settings})  # type: ignore[call-arg]
