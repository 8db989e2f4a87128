"""The registered topologies with one graph for a whole run: functions from a number of nodes to a graph.

A random graph that is not connected is drawn again, see `flower_kd.topology.build`.
"""

from __future__ import annotations

from itertools import count
from math import isqrt, log
from typing import Annotated

import networkx as nx
import numpy as np
from annotated_types import Interval

from flower_kd.errors import InputError
from flower_kd.ranges import Count, Share
from flower_kd.topology.checks import some
from flower_kd.topology.registry import TOPOLOGIES


@TOPOLOGIES.register("ring")
def ring(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return a cycle; for two nodes, a single edge."""
    return nx.cycle_graph(num_nodes)


@TOPOLOGIES.register("complete")
def complete(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return the graph in which all nodes are neighbors."""
    return nx.complete_graph(num_nodes)


@TOPOLOGIES.register("star")
def star(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return a hub, vertex 0, and its leaves."""
    return nx.star_graph(num_nodes - 1)


@TOPOLOGIES.register("torus")
def torus(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return a grid that wraps around, as square as possible and at least 3 by 3; numbered row by row."""
    rows, columns = _torus_shape(num_nodes)
    if rows < 3:
        below = [nodes for nodes in range(9, num_nodes) if _torus_shape(nodes)[0] >= 3][-1:]
        above = next(nodes for nodes in count(max(num_nodes, 9)) if _torus_shape(nodes)[0] >= 3)
        raise InputError(
            f"a torus needs at least 3 rows and 3 columns, and {num_nodes} nodes have no such grid "
            f"(nearest: {some([*below, above])})"
        )
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(rows, columns, periodic=True), ordering="sorted")


@TOPOLOGIES.register("hypercube")
def hypercube(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return the cube whose vertices are neighbors if their numbers differ in one bit."""
    dimension = num_nodes.bit_length() - 1
    if num_nodes != 2**dimension:
        nearest = some([2**dimension, 2 ** (dimension + 1)])
        raise InputError(f"a hypercube needs a power of two, not {num_nodes} nodes (nearest: {nearest})")
    return nx.convert_node_labels_to_integers(nx.hypercube_graph(dimension), ordering="sorted")


@TOPOLOGIES.register("exponential")
def exponential(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return a ring with more edges: neighbors are 1, 2, 4, ... hops away, in both directions.

    The undirected form of the static exponential graph of Ying et al., Exponential Graph is Provably Efficient for
    Decentralized Deep Training (NeurIPS 2021).
    """
    return nx.circulant_graph(num_nodes, [2**power for power in range((num_nodes - 1).bit_length())])


@TOPOLOGIES.register("regular")
def regular(num_nodes: int, rng: np.random.Generator, *, degree: Count = 4) -> nx.Graph:
    """Return a random graph in which all have the same degree (Steger and Wormald 1999)."""
    _require_between("degree", degree, 1, num_nodes - 1, num_nodes)
    if num_nodes * degree % 2:
        raise InputError(f"a regular graph needs an even number of edge ends, not {num_nodes} nodes of degree {degree}")
    if 2 * degree < num_nodes:
        return nx.random_regular_graph(degree, num_nodes, seed=rng)
    # Pairing the edge ends of a dense graph fails repeatedly; for its complement it succeeds at once.
    return nx.complement(nx.random_regular_graph(num_nodes - 1 - degree, num_nodes, seed=rng))


@TOPOLOGIES.register("erdos-renyi")
def erdos_renyi(
    num_nodes: int, rng: np.random.Generator, *, edge_probability: Annotated[float, Interval(gt=0, le=1)] | None = None
) -> nx.Graph:
    """Return a graph in which each edge is there with the same probability (Gilbert 1959).

    The default is min(1, 2 ln(nodes) / nodes), twice the threshold of connectedness.
    """
    if edge_probability is None:
        edge_probability = min(1.0, 2 * log(num_nodes) / num_nodes)
    return nx.fast_gnp_random_graph(num_nodes, edge_probability, seed=rng)


@TOPOLOGIES.register("small-world")
def small_world(
    num_nodes: int, rng: np.random.Generator, *, degree: Count = 4, rewire_probability: Share = 0.1
) -> nx.Graph:
    """Return a ring of near neighbors with some edges moved to random nodes (Watts and Strogatz 1998)."""
    _require_between("degree", degree, 2, num_nodes - 1, num_nodes)
    if degree % 2:
        raise InputError(f"degree = {degree} must be even in a small world: half of the neighbors are on either side")
    return nx.watts_strogatz_graph(num_nodes, degree, rewire_probability, seed=rng)


@TOPOLOGIES.register("scale-free")
def scale_free(num_nodes: int, rng: np.random.Generator, *, attachment: Count = 2) -> nx.Graph:
    """Return a graph grown node by node: each adds `attachment` edges, mostly to hubs (Barabasi and Albert 1999)."""
    _require_between("attachment", attachment, 1, num_nodes - 1, num_nodes)
    return nx.barabasi_albert_graph(num_nodes, attachment, seed=rng)


@TOPOLOGIES.register("random-directed")
def random_directed(
    num_nodes: int, rng: np.random.Generator, *, min_degree: Count = 1, max_degree: Count = 3
) -> nx.DiGraph:
    """Return a strongly connected directed graph with out-degrees between two bounds.

    The probability of an out-degree is proportional to it (1/6, 2/6, 3/6 for 1 to 3), as in Wang, Wang and Ma 2020,
    section III.A. One target of each vertex is its successor on a random cycle through all vertices, the others are
    drawn from the rest. Each target is therefore uniform over the other vertices, and the graph always strongly
    connected, unlike with independent targets, where this becomes rarer with more nodes.
    """
    _require_between("min_degree", min_degree, 1, num_nodes - 1, num_nodes)
    _require_between("max_degree", max_degree, min_degree, num_nodes - 1, num_nodes)
    law = np.arange(min_degree, max_degree + 1)
    degrees = rng.choice(law, size=num_nodes, p=law / law.sum())
    cycle = rng.permutation(num_nodes)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(num_nodes))
    for vertex, successor in zip(cycle.tolist(), np.roll(cycle, -1).tolist(), strict=True):
        others = rng.choice(num_nodes - 2, size=degrees[vertex] - 1, replace=False) if degrees[vertex] > 1 else law[:0]
        # Skip the two vertices that are not candidates.
        others = others + (others >= min(vertex, successor))
        others = others + (others >= max(vertex, successor))
        graph.add_edges_from((vertex, target) for target in [successor, *others.tolist()])
    return graph


def _require_between(option: str, value: int, low: int, high: int, num_nodes: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{option} = {value} is outside {low} to {high} for {num_nodes} nodes")


def _torus_shape(num_nodes: int) -> tuple[int, int]:
    rows = next(rows for rows in range(isqrt(num_nodes), 0, -1) if num_nodes % rows == 0)
    return rows, num_nodes // rows
