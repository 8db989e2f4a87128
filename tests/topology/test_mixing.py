from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from drawn_graphs import built, strongly_connected
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.topology import mixing


def assert_doubly_stochastic(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-9)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-9)
    assert (matrix.diagonal() > 0).all()


def assert_weights_follow_edges(matrix: np.ndarray, graph: nx.Graph) -> None:
    for vertex in graph:
        heard = set(np.flatnonzero(matrix[vertex]).tolist()) - {vertex}
        assert sorted(heard) == topology.neighbors(graph, vertex)
    assert (matrix >= 0).all()


@settings(deadline=None, max_examples=60)
@given(built())
def test_mixing_matrix_of_a_topology(graph: nx.Graph) -> None:
    matrix = topology.mixing_matrix(graph).toarray()
    assert_doubly_stochastic(matrix)
    assert_weights_follow_edges(matrix, graph)
    if not graph.is_directed():
        np.testing.assert_array_equal(matrix, matrix.T)


@settings(deadline=None, max_examples=60)
@given(strongly_connected())
def test_mixing_matrix_of_any_strongly_connected_graph(graph: nx.DiGraph) -> None:
    matrix = topology.mixing_matrix(graph).toarray()
    assert_doubly_stochastic(matrix)
    assert_weights_follow_edges(matrix, graph)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.one_of(built(), strongly_connected()))
def test_weights_without_absent_nodes_stay_doubly_stochastic(data: st.DataObject, graph: nx.Graph) -> None:
    num_nodes = graph.number_of_nodes()
    absences = data.draw(st.lists(st.sets(st.integers(0, num_nodes - 1)), min_size=1, max_size=3))
    weights = topology.Mixing(graph)
    for absent in absences:
        present = np.ones(num_nodes, dtype=bool)
        present[list(absent)] = False
        matrix = weights.among(present).toarray()
        assert_doubly_stochastic(matrix)
        assert (matrix >= 0).all()
        assert np.array_equal(matrix[~present], np.eye(num_nodes)[~present])
        assert np.array_equal(matrix[:, ~present], np.eye(num_nodes)[:, ~present])
        left = graph.subgraph(np.flatnonzero(present).tolist())
        components = nx.strongly_connected_components(left) if graph.is_directed() else [set(left)]
        member = {vertex: number for number, vertices in enumerate(components) for vertex in vertices}
        for vertex in left:
            heard = set(np.flatnonzero(matrix[vertex]).tolist()) - {vertex}
            known = set(topology.neighbors(graph, vertex)) & set(left)
            assert heard == {other for other in known if member[other] == member[vertex]}
    assert weights.among(np.ones(num_nodes, dtype=bool)) is weights.matrix


def test_the_same_absences_are_balanced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = topology.Mixing(topology.build("random-directed", 12))
    present = np.arange(12) != 3
    first = weights.among(present)
    monkeypatch.setattr(mixing, "_balanced", None)
    assert weights.among(present.copy()) is first


@settings(deadline=None, max_examples=30)
@given(built())
def test_uniform_matrix(graph: nx.Graph) -> None:
    matrix = topology.uniform_matrix(graph).toarray()
    assert_weights_follow_edges(matrix, graph)
    for vertex in graph:
        weights = matrix[vertex][matrix[vertex] > 0]
        np.testing.assert_allclose(weights, 1 / (1 + len(topology.neighbors(graph, vertex))), rtol=1e-15)


def test_metropolis_weights_of_a_star() -> None:
    matrix = topology.mixing_matrix(topology.build("star", 4)).toarray()
    np.testing.assert_allclose(matrix[0], 1 / 4)
    np.testing.assert_allclose(matrix[1], [1 / 4, 3 / 4, 0, 0])


def test_balanced_weights_keep_the_form_of_sinkhorn() -> None:
    # D1 A D2 with ones in A has rank-one blocks: equal cross ratios wherever four edges meet.
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 0), (1, 0)])
    matrix = topology.mixing_matrix(graph).toarray()
    assert matrix[0, 0] * matrix[1, 1] == pytest.approx(matrix[0, 1] * matrix[1, 0], rel=1e-9)


def test_balancing_a_long_ring_with_chords() -> None:
    graph = nx.cycle_graph(500, create_using=nx.DiGraph)
    graph.add_edges_from([(3, 250), (100, 20), (350, 300)])
    matrix = topology.mixing_matrix(graph)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-9)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-9)
    assert matrix.diagonal().min() > 0


def test_weights_self_loops_and_parallel_edges_are_ignored() -> None:
    plain = topology.mixing_matrix(nx.path_graph(3)).toarray()
    odd = nx.MultiGraph([(0, 0), (0, 1), (0, 1), (1, 2)])
    odd.add_edge(1, 2, weight=7.0)
    np.testing.assert_array_equal(topology.mixing_matrix(odd).toarray(), plain)
    assert topology.neighbors(odd, 0) == [1]


def test_ten_thousand_nodes_stay_sparse() -> None:
    matrix = topology.mixing_matrix(topology.build("regular", 10_000))
    assert matrix.nnz == 5 * 10_000
    np.testing.assert_allclose(matrix.data, 1 / 5, rtol=1e-12)


def test_ten_thousand_directed_nodes_stay_sparse() -> None:
    graph = topology.build("random-directed", 10_000)
    matrix = topology.mixing_matrix(graph)
    assert matrix.nnz == graph.number_of_edges() + 10_000
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (nx.Graph([(1, 2), (2, 3)]), "must be 0 to 2, not 1, 2, 3"),
        (nx.Graph([("a", "b")]), "must be 0 to 1, not a, b"),
        (nx.Graph(), "at least 2 nodes, not 0"),
        (nx.Graph([(0, 1), (2, 3)]), "is not connected: it has 2 components"),
        (nx.DiGraph([(0, 1), (1, 2)]), "is not strongly connected: it has 3 components"),
    ],
)
def test_graphs_without_a_mixing_matrix(graph: nx.Graph, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        topology.mixing_matrix(graph)


def test_balancing_that_does_not_converge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "_BALANCING_STEPS", 1)
    with pytest.raises(
        InputError, match="the directed graph of 9 nodes could not be balanced to a doubly stochastic matrix in 1"
    ):
        topology.mixing_matrix(topology.build("random-directed", 9))
