"""One strategy per file; `base` is the common base of those on a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from flower_kd.strategies.base import GraphStrategy
from flower_kd.strategies.consensus import CONSENSUS
from flower_kd.strategies.d_dist import DDist
from flower_kd.strategies.d_sgd import DSGD
from flower_kd.strategies.distillation import DistillationStrategy
from flower_kd.strategies.fedavg import FedAvg
from flower_kd.strategies.multi_head import MultiHead
from flower_kd.strategies.neighbor_kd import NeighborKD
from flower_kd.strategies.network import Network
from flower_kd.strategies.registry import STRATEGIES, links, sends_to
from flower_kd.strategies.silo import Silo
from flower_kd.topology import GraphSequence

__all__ = [
    "CONSENSUS",
    "DSGD",
    "STRATEGIES",
    "DDist",
    "DistillationStrategy",
    "FedAvg",
    "GraphStrategy",
    "MultiHead",
    "NeighborKD",
    "Network",
    "Silo",
    "build",
    "links",
    "names",
    "sends_to",
]


def names() -> list[str]:
    """Return the names of the strategies."""
    return STRATEGIES.names()


def build(name: str, graph: nx.Graph | GraphSequence, settings: Mapping[str, Any]) -> Any:
    """Return a strategy on a graph.

    Parameters
    ----------
    name : str
        One of `names()` or `module:attribute`, with settings in parentheses if it has any:
        "neighbor-kd(pooling_self=true)".
    graph : networkx graph or GraphSequence
        Its vertices are the nodes.
    settings : mapping
        Values by name for what the parentheses leave open; others than the strategy's arguments are ignored.

    Raises
    ------
    InputError
        If the strategy is unknown or fails, or a setting is unknown or out of range.
    """
    bound = STRATEGIES.bind(STRATEGIES.filled(name, settings))
    return STRATEGIES.call(name, bound, graph)
