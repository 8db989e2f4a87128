"""What a communication graph is: its neighbors, its cost and its mixing speed."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np

from flower_kd.errors import InputError
from flower_kd.topology.mixing import mixing_matrix
from flower_kd.topology.spectrum import spectral_gap

_EXACT_DIAMETER_NODES = 2000


def neighbors(graph: nx.Graph, vertex: int) -> list[int]:
    """Return the vertices that a vertex receives from, in ascending order: its neighbors or, if directed, predecessors.

    Raises
    ------
    InputError
        If the vertex is not in the graph.
    """
    if vertex not in graph:
        raise InputError(f"the graph has no vertex {vertex} (it has {graph.number_of_nodes()} vertices)")
    senders = graph.predecessors(vertex) if graph.is_directed() else graph.neighbors(vertex)
    return sorted(set(senders) - {vertex})


@dataclass(frozen=True)
class Description:
    """Cost of a graph and its mixing speed.

    Parameters
    ----------
    nodes : int
        Number of vertices.
    edges : int
        Number of edges; each direction counts in a directed graph.
    min_degree : int
        Least number of neighbors that a node receives from: the in-degree in a directed graph.
    mean_degree : float
        Mean number of neighbors that a node receives from.
    max_degree : int
        Largest number of neighbors that a node receives from.
    diameter : int
        Hops between the two nodes that are furthest apart, or a lower bound.
    diameter_is_exact : bool
        Whether `diameter` is exact and not a bound; True for up to 2,000 nodes.
    spectral_gap : float
        That of the mixing matrix, see `spectral_gap`.
    """

    nodes: int
    edges: int
    min_degree: int
    mean_degree: float
    max_degree: int
    diameter: int
    diameter_is_exact: bool
    spectral_gap: float


def describe(graph: nx.Graph) -> Description:
    """Return the cost of a graph and its mixing speed; raises InputError if it has no mixing matrix."""
    matrix = mixing_matrix(graph)
    degrees = np.diff(matrix.indptr) - 1
    exact = graph.number_of_nodes() <= _EXACT_DIAMETER_NODES
    return Description(
        nodes=graph.number_of_nodes(),
        edges=graph.number_of_edges(),
        min_degree=int(degrees.min()),
        mean_degree=float(degrees.mean()),
        max_degree=int(degrees.max()),
        diameter=nx.diameter(graph) if exact else nx.approximation.diameter(graph, seed=0),
        diameter_is_exact=exact,
        spectral_gap=spectral_gap(matrix),
    )
