"""Properties of every topology."""

from __future__ import annotations

from functools import partial
from typing import Any

import networkx as nx
import numpy as np

from flower_kd import topology
from flower_kd.errors import InputError, of_type
from flower_kd.failures import describe
from flower_kd.seeding import derive

_SIZES = (2, 3, 4, 5, 8, 9, 12, 16, 31, 32)


def check_topology(part: str | Any) -> None:
    """Check the graphs that a topology makes for several numbers of nodes.

    Parameters
    ----------
    part : str or callable
        As in a run config, or the function (num_nodes, rng).

    Raises
    ------
    AssertionError
        If it refuses every number of nodes from 2 to 32 that was tried, does so with another error than InputError, or
        makes a graph of other vertices than 0 to num_nodes - 1, with self-loops, not (strongly) connected, or another
        one for the same seed.
    """
    if isinstance(part, str) and topology.is_file(part):
        build = partial(topology.build, part)
    else:  # not `topology.build`, which refuses graphs that are not connected: that is no refusal of the part's own
        build = partial(_called, topology.TOPOLOGIES.make(part) if isinstance(part, str) else part)
    made, refusal = 0, ""
    for num_nodes in _SIZES:
        try:
            graph = build(num_nodes, seed=1)
        except InputError as error:
            refusal = f"for {num_nodes}: {error}"
            continue
        except Exception as error:
            raise AssertionError(
                f"{num_nodes} nodes end in an error that is not InputError: {describe(error)}"
            ) from error
        made += 1
        _check(graph, num_nodes)
        again = build(num_nodes, seed=1)
        assert set(graph.edges) == set(again.edges), f"{num_nodes} nodes: the same seed gave two graphs"
        matrix = topology.mixing_matrix(graph)
        sums = np.concatenate([np.asarray(matrix.sum(axis=axis)).ravel() for axis in (0, 1)])
        assert np.allclose(sums, 1.0, atol=1e-6), f"{num_nodes} nodes: the mixing matrix is not doubly stochastic"
    assert made, f"it refuses every number of nodes of {', '.join(map(str, _SIZES))}; {refusal}"


def _called(builder: Any, num_nodes: int, seed: int) -> nx.Graph:
    return builder(num_nodes, np.random.default_rng(derive(seed, "topology")))


def _check(graph: nx.Graph, num_nodes: int) -> None:
    assert isinstance(graph, nx.Graph), f"it returns {of_type(graph)}, not a networkx graph"
    vertices = sorted(graph, key=str)
    assert set(graph) == set(range(num_nodes)), f"{num_nodes} nodes: the vertices are {vertices[:8]}"
    assert nx.number_of_selfloops(graph) == 0, f"{num_nodes} nodes: the graph has self-loops"
    connected = nx.is_strongly_connected(graph) if graph.is_directed() else nx.is_connected(graph)
    assert connected, f"{num_nodes} nodes: the graph is not {'strongly ' if graph.is_directed() else ''}connected"
