"""Where the vertices of a graph are drawn: known shapes as one knows them, others by path lengths.

Shapes are recognized by their edges, so that a graph from a file is drawn like the same one by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isqrt

import networkx as nx
import numpy as np
from scipy.sparse import diags_array
from scipy.sparse.linalg import eigsh

_MAX_CIRCLE = 64  # above it, the chords of a circle are a blot
_MAX_KAMADA_KAWAI = 100
_MAX_SPRING = 500
_CIRCLE_SHARE = 0.6
_STUB = 0.45

# The first three axes are those of a cube seen from above; then cubes stand side by side and behind one another.
# They are slanted, so that no edge lies on another.
_HYPERCUBE_AXES = ((1.0, 0.0), (0.0, 1.0), (0.42, 0.34), (2.05, 0.22), (0.24, 2.0), (4.3, 0.62), (0.66, 4.3))

Place = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Where a graph is drawn.

    Parameters
    ----------
    places : ndarray
        [nodes, 2], by vertex.
    wrapped : dict
        The edges that leave the picture at one side and come back at the other, as the two lines that are drawn of
        each, which end in the open.
    """

    places: np.ndarray
    wrapped: dict[tuple[int, int], list[tuple[Place, Place]]] = field(default_factory=dict)


def layout(graph: nx.Graph) -> Layout:
    """Return the layout of a graph with vertices 0, 1, ..., the same for the same graph."""
    edges = frozenset((min(edge), max(edge)) for edge in graph.edges)
    return _layout(graph.number_of_nodes(), edges, graph.is_directed())


def circle(num_nodes: int, order: Sequence[int] | None = None) -> np.ndarray:
    """Return places on a circle [nodes, 2], clockwise from the top in the order of vertices or another one."""
    angles = np.pi / 2 - 2 * np.pi * np.arange(num_nodes) / num_nodes
    places = np.empty((num_nodes, 2))
    places[list(order) if order is not None else slice(None)] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return places


@lru_cache(maxsize=32)  # a comparison draws one graph in many panels
def _layout(num_nodes: int, edges: frozenset[tuple[int, int]], directed: bool) -> Layout:
    graph = nx.Graph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from(sorted(edges))
    degrees = np.array([graph.degree[vertex] for vertex in range(num_nodes)])
    if num_nodes > 2 and degrees.max() == num_nodes - 1 == len(edges):
        return Layout(_star(num_nodes, int(degrees.argmax())))
    if (degrees == 2).all() and nx.is_connected(graph):
        return Layout(circle(num_nodes, list(nx.dfs_preorder_nodes(graph, 0))))
    shape = None if directed else _torus_shape(num_nodes, edges)  # an arrow cannot leave and come back
    if shape is not None:
        return _torus(*shape, edges)
    if _is_hypercube(num_nodes, degrees, edges):
        return Layout(_hypercube(num_nodes))
    nexts = sum((vertex, vertex + 1) in edges for vertex in range(num_nodes - 1)) + ((0, num_nodes - 1) in edges)
    regular = degrees.min() == degrees.max()
    if num_nodes <= _MAX_CIRCLE and (regular or (nexts >= _CIRCLE_SHARE * num_nodes and len(edges) > nexts)):
        return Layout(circle(num_nodes))
    if num_nodes <= _MAX_KAMADA_KAWAI:
        found = nx.kamada_kawai_layout(graph, weight=None)
        return Layout(np.array([found[vertex] for vertex in range(num_nodes)]))
    places = _spectral(graph)
    if num_nodes <= _MAX_SPRING:
        springs = nx.spring_layout(graph, pos=dict(enumerate(places)), weight=None)
        places = np.array([springs[vertex] for vertex in range(num_nodes)])
    return Layout(places)


def _star(num_nodes: int, hub: int) -> np.ndarray:
    places = np.zeros((num_nodes, 2))
    places[np.arange(num_nodes) != hub] = circle(num_nodes - 1)
    return places


def _torus_shape(num_nodes: int, edges: frozenset[tuple[int, int]]) -> tuple[int, int] | None:
    """Return rows and columns if the edges are those of a torus that is numbered row by row."""
    if len(edges) != 2 * num_nodes:
        return None
    for rows in range(3, isqrt(num_nodes) + 1):
        for shape in ((rows, num_nodes // rows), (num_nodes // rows, rows)):
            if num_nodes % rows == 0 and edges == _torus_edges(*shape):
                return shape
    return None


def _torus_edges(rows: int, columns: int) -> set[tuple[int, int]]:
    numbers = np.arange(rows * columns).reshape(rows, columns)
    pairs = np.concatenate([np.stack([numbers, np.roll(numbers, -1, axis)], axis=-1) for axis in (0, 1)])
    return {(low, high) for low, high in np.sort(pairs.reshape(-1, 2), axis=1).tolist()}


def _torus(rows: int, columns: int, edges: frozenset[tuple[int, int]]) -> Layout:
    """Return a grid; edges to the opposite side are stubs."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    places = np.stack([column, -row], axis=1).astype(float)
    wrapped = {}
    for edge in edges:
        (x, y), (other_x, other_y) = (places[vertex].tolist() for vertex in edge)
        over = (np.sign(other_x - x) * (abs(other_x - x) > 1), np.sign(other_y - y) * (abs(other_y - y) > 1))
        if any(over):
            step = _STUB * np.array(over)
            wrapped[edge] = [
                ((x, y), (x - step[0], y - step[1])),
                ((other_x, other_y), (other_x + step[0], other_y + step[1])),
            ]
    return Layout(places, wrapped)


def _is_hypercube(num_nodes: int, degrees: np.ndarray, edges: frozenset[tuple[int, int]]) -> bool:
    """Return whether neighbors are the vertices whose numbers differ in one bit."""
    dimension = num_nodes.bit_length() - 1
    if num_nodes != 2**dimension or dimension > len(_HYPERCUBE_AXES) or not (degrees == dimension).all():
        return False
    return all((a ^ b).bit_count() == 1 for a, b in edges)


def _hypercube(num_nodes: int) -> np.ndarray:
    """Return a projection: a cube of one more dimension is two of the former, moved along the next axis."""
    places = np.zeros((1, 2))
    for axis in _HYPERCUBE_AXES[: num_nodes.bit_length() - 1]:
        places = np.concatenate([places, places + axis])
    return places


def _spectral(graph: nx.Graph) -> np.ndarray:
    """Return the second and third eigenvector of the random walk: neighbors come close to one another (Koren 2005)."""
    adjacency = nx.to_scipy_sparse_array(graph, nodelist=sorted(graph), weight=None, dtype=float)
    scale = 1 / np.sqrt(adjacency.sum(axis=0))
    start = np.random.default_rng(0).standard_normal(len(scale))
    _, vectors = eigsh(diags_array(scale) @ adjacency @ diags_array(scale), k=3, which="LA", v0=start, tol=1e-4)
    return vectors[:, 1::-1] * scale[:, None]
