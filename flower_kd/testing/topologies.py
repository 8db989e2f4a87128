"""Properties of every topology."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
from scipy.sparse import csr_array

from flower_kd import topology
from flower_kd.errors import InputError, of_type
from flower_kd.failures import describe
from flower_kd.topology.checks import is_connected
from flower_kd.topology.registry import first_connected, stream, varies

_SIZES = (2, 3, 4, 5, 8, 9, 12, 16, 31, 32)
_EXCHANGES, _TWICE = 200, 8  # over which a graph that varies is connected; of which some are drawn twice


def check_topology(part: str | Any) -> None:
    """Check the graphs that a topology makes for several numbers of nodes, and exchanges if it varies.

    Parameters
    ----------
    part : str or callable
        As in a run config, or the function (num_nodes, rng), with `exchange` if there is another graph in each.

    Raises
    ------
    AssertionError
        If it refuses every number of nodes from 2 to 32 that was tried, does so with another error than InputError, or
        makes a graph of other vertices than 0 to num_nodes - 1, with self-loops, not (strongly) connected, or another
        one for the same seed. Of one that varies, only the union over 200 exchanges must be connected, and the graph of
        an exchange must not depend on those that were drawn before.
    """
    builder: Any = None  # of a file
    if not (isinstance(part, str) and topology.is_file(part)):
        builder = topology.TOPOLOGIES.make(part) if isinstance(part, str) else part
    made, refusal = 0, ""
    for num_nodes in _SIZES:
        try:
            if builder is not None and varies(builder):
                _check_sequence(builder, num_nodes)
                made += 1
                continue
            graph = _built(part, builder, num_nodes)
        except AssertionError:
            raise
        except InputError as error:
            refusal = f"for {num_nodes}: {error}"
            continue
        except Exception as error:
            raise AssertionError(
                f"{num_nodes} nodes end in an error that is not InputError: {describe(error)}"
            ) from error
        made += 1
        _check(graph, num_nodes)
        _check_connected(graph, f"{num_nodes} nodes: the graph")
        again = _built(part, builder, num_nodes)
        assert set(graph.edges) == set(again.edges), f"{num_nodes} nodes: the same seed gave two graphs"
        _check_mixing(topology.mixing_matrix(graph), num_nodes)
    assert made, f"it refuses every number of nodes of {', '.join(map(str, _SIZES))}; {refusal}"


def _built(part: Any, builder: Any, num_nodes: int) -> nx.Graph:
    if builder is None:
        return topology.build(part, num_nodes, seed=1)
    # Not `topology.build`, which refuses graphs that are not connected: that is no refusal of the part's own.
    rng = stream(1)
    return first_connected(lambda: builder(num_nodes, rng), rng)


def _check_sequence(builder: Any, num_nodes: int) -> None:
    union: nx.Graph | None = None
    for exchange in reversed(range(_EXCHANGES)):
        graph = builder(num_nodes, stream(1, exchange), exchange=exchange)
        _check(graph, num_nodes)
        union = graph.copy() if union is None else union
        what = f"{num_nodes} nodes, exchange {exchange}"
        assert graph.is_directed() == union.is_directed(), f"{what}: some graphs are directed, others are not"
        union.add_edges_from(graph.edges)
        if exchange < _TWICE:
            again = builder(num_nodes, stream(1, exchange), exchange=exchange)
            assert set(graph.edges) == set(again.edges), f"{what}: the same seed gave two graphs"
            _check_mixing(topology.mixing_matrix(graph, connected=False), num_nodes)
    assert union is not None
    _check_connected(union, f"{num_nodes} nodes: the union of {_EXCHANGES} graphs")


def _check_mixing(matrix: csr_array, num_nodes: int) -> None:
    sums = np.concatenate([np.asarray(matrix.sum(axis=axis)).ravel() for axis in (0, 1)])
    assert np.allclose(sums, 1.0, atol=1e-6), f"{num_nodes} nodes: the mixing matrix is not doubly stochastic"


def _check(graph: nx.Graph, num_nodes: int) -> None:
    assert isinstance(graph, nx.Graph), f"it returns {of_type(graph)}, not a networkx graph"
    vertices = sorted(graph, key=str)
    assert set(graph) == set(range(num_nodes)), f"{num_nodes} nodes: the vertices are {vertices[:8]}"
    assert nx.number_of_selfloops(graph) == 0, f"{num_nodes} nodes: the graph has self-loops"


def _check_connected(graph: nx.Graph, what: str) -> None:
    assert is_connected(graph), f"{what} is not {'strongly ' if graph.is_directed() else ''}connected"
