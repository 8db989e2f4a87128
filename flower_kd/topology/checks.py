"""What every communication graph must be: at least two nodes, and connected."""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx

from flower_kd.errors import InputError
from flower_kd.ranges import require_whole


def require_two(num_nodes: int) -> None:
    """Raise InputError unless a number of nodes is a whole number, at least 2."""
    if isinstance(num_nodes, int) and num_nodes < 2:
        raise InputError(f"a communication graph needs at least 2 nodes, not {num_nodes}")
    require_whole("num_nodes", num_nodes, 2)


def is_connected(graph: nx.Graph) -> bool:
    """Return whether a graph is connected, or strongly connected if directed."""
    if len(graph) == 0:  # networkx raises an error
        return False
    return nx.is_strongly_connected(graph) if graph.is_directed() else nx.is_connected(graph)


def require_connected(graph: nx.Graph, what: str) -> None:
    """Raise InputError unless a graph is connected, or strongly connected if directed."""
    if graph.is_directed():
        kind, components = "strongly connected", nx.number_strongly_connected_components(graph)
    else:
        kind, components = "connected", nx.number_connected_components(graph)
    if components != 1:
        raise InputError(f"{what} is not {kind}: it has {components} components, but must have 1")


def some(values: Iterable[object]) -> str:
    """Return the first values, and how many more there are, for a sentence."""
    listed = [str(value) for value in values]
    return ", ".join(listed if len(listed) <= 6 else [*listed[:5], f"... {len(listed) - 5} more"])
