from __future__ import annotations

import networkx as nx
import pytest

from flower_kd import topology
from flower_kd.errors import InputError


def test_neighbors_in_a_directed_graph_are_those_who_send() -> None:
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 0), (2, 1)])
    assert topology.neighbors(graph, 1) == [0, 2]
    assert topology.mixing_matrix(graph)[0, 1] == 0
    assert topology.mixing_matrix(graph)[1, 0] > 0


def test_unknown_vertex_is_refused() -> None:
    with pytest.raises(InputError, match="no vertex 4"):
        topology.neighbors(topology.build("ring", 4), 4)


def test_describe() -> None:
    told = topology.describe(topology.build("star", 5))
    assert (told.nodes, told.edges, told.diameter, told.diameter_is_exact) == (5, 4, 2, True)
    assert (told.min_degree, told.mean_degree, told.max_degree) == (1, 1.6, 4)
    assert told.spectral_gap == pytest.approx(1 / 5)


def test_describe_bounds_the_diameter_of_a_large_graph() -> None:
    told = topology.describe(topology.build("star", 2500))
    assert not told.diameter_is_exact
    assert told.diameter == 2
