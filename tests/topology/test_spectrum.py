from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from drawn_graphs import built, strongly_connected
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd import topology
from flower_kd.topology import mixing


@settings(deadline=None, max_examples=100)
@given(st.data(), st.one_of(built(), strongly_connected()), st.floats(0.01, 1.0))
def test_a_stable_step_shrinks_all_differences(data: st.DataObject, graph: nx.Graph, step: float) -> None:
    num_nodes = graph.number_of_nodes()
    weights = topology.Mixing(graph)
    for absent in (set(), data.draw(st.sets(st.integers(0, num_nodes - 1), max_size=num_nodes - 1))):
        present = np.ones(num_nodes, dtype=bool)
        present[list(absent)] = False
        matrix = weights.among(present).toarray()[np.ix_(present, present)]
        stable = weights.stable_step(step)
        assert 0 < stable <= step
        assert np.linalg.norm(matrix - stable * np.eye(len(matrix)), 2) < 1


@pytest.mark.parametrize(
    ("name", "num_nodes", "least"),
    [
        ("ring", 16, -1 / 3),
        ("torus", 16, -0.6),
        ("hypercube", 16, -0.6),
        ("hypercube", 256, -7 / 9),
        ("torus", 576, -0.6),
    ],
)
def test_a_step_is_lowered_by_the_least_eigenvalue(name: str, num_nodes: int, least: float) -> None:
    matrix = topology.mixing_matrix(topology.build(name, num_nodes))
    assert topology.stable_step(matrix, 1.0) == pytest.approx(0.9 * (1 + least), abs=2e-3)
    assert topology.stable_step(matrix, 0.1) == 0.1


def test_the_step_of_a_large_graph_is_found_once_and_sparsely(monkeypatch: pytest.MonkeyPatch) -> None:
    for graph in (nx.cycle_graph(10_000), topology.build("random-directed", 10_000)):
        weights = topology.Mixing(graph)
        step = weights.stable_step(0.5)
        assert 0 < step <= 0.5
        with monkeypatch.context() as patched:
            patched.setattr(mixing, "stable_step", None)
            assert weights.stable_step(0.5) == step


@pytest.mark.parametrize("num_nodes", [2, 10, 256])
def test_complete_graph_agrees_in_one_step(num_nodes: int) -> None:
    matrix = topology.mixing_matrix(topology.build("complete", num_nodes))
    np.testing.assert_allclose(matrix.toarray(), 1 / num_nodes, rtol=1e-12)
    assert topology.spectral_gap(matrix) == pytest.approx(1)


@pytest.mark.parametrize("num_nodes", [3, 16, 101, 500])
def test_spectral_gap_of_a_ring(num_nodes: int) -> None:
    gap = topology.spectral_gap(topology.mixing_matrix(topology.build("ring", num_nodes)))
    assert gap == pytest.approx(2 / 3 * (1 - np.cos(2 * np.pi / num_nodes)), rel=1e-6)


@pytest.mark.parametrize("num_nodes", [12, 150])
def test_spectral_gap_of_a_directed_ring(num_nodes: int) -> None:
    # Eigenvalues (1 + e^(2 pi i k / n)) / 2: the modulus counts, not the real part.
    graph = nx.cycle_graph(num_nodes, create_using=nx.DiGraph)
    gap = topology.spectral_gap(topology.mixing_matrix(graph))
    assert gap == pytest.approx(1 - np.cos(np.pi / num_nodes), rel=1e-6)


def test_iterative_spectral_gap_of_a_directed_graph_is_that_of_all_eigenvalues() -> None:
    matrix = topology.mixing_matrix(topology.build("random-directed", 210))
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix.toarray())))
    assert topology.spectral_gap(matrix) == pytest.approx(1 - moduli[-2], abs=1e-4)


def test_spectral_gap_that_cannot_be_found_is_nan() -> None:
    graph = nx.cycle_graph(400, create_using=nx.DiGraph)
    assert np.isnan(topology.spectral_gap(topology.mixing_matrix(graph)))
