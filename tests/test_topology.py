from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd import topology
from flower_kd.errors import InputError

# Sizes that each topology takes with its defaults.
SIZES = {
    "torus": st.sampled_from([9, 12, 15, 16, 30, 64]),
    "hypercube": st.sampled_from([2, 4, 8, 16, 64]),
    "regular": st.integers(5, 60),
    "small-world": st.integers(5, 60),
    "scale-free": st.integers(3, 60),
    "random-directed": st.integers(4, 60),
}
SEEDS = st.integers(0, 2**32)


@st.composite
def built(draw: st.DrawFn) -> nx.Graph:
    name = draw(st.sampled_from(topology.names()))
    return topology.build(name, draw(SIZES.get(name, st.integers(2, 60))), seed=draw(SEEDS))


@st.composite
def strongly_connected(draw: st.DrawFn) -> nx.DiGraph:
    num_nodes = draw(st.integers(2, 25))
    vertex = st.integers(0, num_nodes - 1)
    graph = nx.cycle_graph(draw(st.permutations(range(num_nodes))), create_using=nx.DiGraph)
    graph.add_edges_from(draw(st.lists(st.tuples(vertex, vertex), max_size=60)))
    return graph


def assert_doubly_stochastic(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-9)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-9)
    assert (matrix.diagonal() > 0).all()


def assert_weights_follow_edges(matrix: np.ndarray, graph: nx.Graph) -> None:
    for vertex in graph:
        heard = set(np.flatnonzero(matrix[vertex]).tolist()) - {vertex}
        assert sorted(heard) == topology.neighbors(graph, vertex)
    assert (matrix >= 0).all()


# -- every topology ----------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_contract() -> None:
    assert topology.names() == [
        "ring",
        "complete",
        "star",
        "torus",
        "hypercube",
        "exponential",
        "regular",
        "erdos-renyi",
        "small-world",
        "scale-free",
        "random-directed",
    ]


@settings(deadline=None, max_examples=60)
@given(built())
def test_a_graph_is_simple_connected_and_numbered(graph: nx.Graph) -> None:
    assert sorted(graph) == list(range(len(graph)))
    assert all(type(vertex) is int for vertex in graph)
    assert not graph.is_multigraph()
    assert nx.number_of_selfloops(graph) == 0
    assert nx.is_strongly_connected(graph) if graph.is_directed() else nx.is_connected(graph)


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
    mixing = topology.Mixing(graph)
    for absent in absences:
        present = np.ones(num_nodes, dtype=bool)
        present[list(absent)] = False
        matrix = mixing.among(present).toarray()
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
    assert mixing.among(np.ones(num_nodes, dtype=bool)) is mixing.matrix


@settings(deadline=None, max_examples=100)
@given(st.data(), st.one_of(built(), strongly_connected()), st.floats(0.01, 1.0))
def test_a_stable_step_shrinks_all_differences(data: st.DataObject, graph: nx.Graph, step: float) -> None:
    num_nodes = graph.number_of_nodes()
    mixing = topology.Mixing(graph)
    for absent in (set(), data.draw(st.sets(st.integers(0, num_nodes - 1), max_size=num_nodes - 1))):
        present = np.ones(num_nodes, dtype=bool)
        present[list(absent)] = False
        matrix = mixing.among(present).toarray()[np.ix_(present, present)]
        stable = mixing.stable_step(step)
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
        mixing = topology.Mixing(graph)
        step = mixing.stable_step(0.5)
        assert 0 < step <= 0.5
        with monkeypatch.context() as patched:
            patched.setattr(topology, "stable_step", None)
            assert mixing.stable_step(0.5) == step


def test_the_same_absences_are_balanced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mixing = topology.Mixing(topology.build("random-directed", 12))
    present = np.arange(12) != 3
    first = mixing.among(present)
    monkeypatch.setattr(topology, "_balanced", None)
    assert mixing.among(present.copy()) is first


@settings(deadline=None, max_examples=30)
@given(built())
def test_uniform_matrix(graph: nx.Graph) -> None:
    matrix = topology.uniform_matrix(graph).toarray()
    assert_weights_follow_edges(matrix, graph)
    for vertex in graph:
        weights = matrix[vertex][matrix[vertex] > 0]
        np.testing.assert_allclose(weights, 1 / (1 + len(topology.neighbors(graph, vertex))), rtol=1e-15)


@pytest.mark.parametrize("name", ["regular", "erdos-renyi", "small-world", "scale-free", "random-directed"])
def test_a_seed_fixes_a_random_graph(name: str) -> None:
    np.random.seed(1)
    edges = sorted(topology.build(name, 40, seed=3).edges)
    np.random.seed(2)
    assert sorted(topology.build(name, 40, seed=3).edges) == edges
    assert sorted(topology.build(name, 40, seed=4).edges) != edges


# -- each topology -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_nodes", "edges"),
    [
        ("ring", 2, [(0, 1)]),
        ("ring", 4, [(0, 1), (0, 3), (1, 2), (2, 3)]),
        ("complete", 3, [(0, 1), (0, 2), (1, 2)]),
        ("star", 4, [(0, 1), (0, 2), (0, 3)]),
        ("hypercube", 4, [(0, 1), (0, 2), (1, 3), (2, 3)]),
    ],
)
def test_edges(name: str, num_nodes: int, edges: list[tuple[int, int]]) -> None:
    assert sorted(topology.build(name, num_nodes).edges) == edges


def test_torus_wraps_row_by_row() -> None:
    graph = topology.build("torus", 12)  # 3 rows of 4
    assert topology.neighbors(graph, 0) == [1, 3, 4, 8]


def test_hypercube_neighbors_differ_in_one_bit() -> None:
    assert topology.neighbors(topology.build("hypercube", 16), 5) == [1, 4, 7, 13]


def test_exponential_hops() -> None:
    # 1, 2, 4, 8 and 16 hops either way
    assert topology.neighbors(topology.build("exponential", 20), 0) == [1, 2, 4, 8, 12, 16, 18, 19]


@pytest.mark.parametrize("degree", [2, 3, 5, 6, 9])
def test_regular_degree(degree: int) -> None:
    graph = topology.build("regular", 10, degree=degree)
    assert {count for _, count in graph.degree} == {degree}


def test_dense_regular_graph_is_quick() -> None:
    graph = topology.build("regular", 256, degree=250)
    assert {count for _, count in graph.degree} == {250}


def test_erdos_renyi_draws_until_connected() -> None:
    # About one draw in eight is connected here.
    assert all(nx.is_connected(topology.build("erdos-renyi", 20, seed, edge_probability=0.11)) for seed in range(10))


def test_random_directed_degrees_follow_the_law_of_the_report() -> None:
    graph = topology.build("random-directed", 6000, seed=0)
    degrees = np.array([degree for _, degree in graph.out_degree])
    shares = np.bincount(degrees, minlength=4)[1:] / 6000
    np.testing.assert_allclose(shares, [1 / 6, 2 / 6, 3 / 6], atol=0.025)  # four standard deviations
    assert degrees.max() == 3


def test_random_directed_targets_are_uniform() -> None:
    heard = np.zeros((5, 5))
    for seed in range(1500):
        for source, target in topology.build("random-directed", 5, seed=seed).edges:
            heard[source, target] += 1
    off_diagonal = heard[~np.eye(5, dtype=bool)] / 1500
    np.testing.assert_allclose(off_diagonal, 7 / 3 / 4, atol=0.055)  # mean degree 7/3 over 4 others


def test_random_directed_degree_bounds() -> None:
    graph = topology.build("random-directed", 30, min_degree=2, max_degree=2)
    assert {degree for _, degree in graph.out_degree} == {2}


def test_neighbors_in_a_directed_graph_are_those_who_send() -> None:
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 0), (2, 1)])
    assert topology.neighbors(graph, 1) == [0, 2]
    assert topology.mixing_matrix(graph)[0, 1] == 0
    assert topology.mixing_matrix(graph)[1, 0] > 0


def test_options_come_from_the_signature() -> None:
    assert topology.options_of("random-directed") == ("min_degree", "max_degree")
    assert topology.options_of("small-world") == ("degree", "rewire_probability")
    assert topology.options_of("ring") == ()


# -- figures -----------------------------------------------------------------------------------------------------------


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


def test_describe() -> None:
    told = topology.describe(topology.build("star", 5))
    assert (told.nodes, told.edges, told.diameter, told.diameter_is_exact) == (5, 4, 2, True)
    assert (told.min_degree, told.mean_degree, told.max_degree) == (1, 1.6, 4)
    assert told.spectral_gap == pytest.approx(1 / 5)


def test_describe_bounds_the_diameter_of_a_large_graph() -> None:
    told = topology.describe(topology.build("star", 2500))
    assert not told.diameter_is_exact
    assert told.diameter == 2


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


# -- files -------------------------------------------------------------------------------------------------------------


def written(folder, text: str, name: str = "graph.edgelist") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "# a ring\n0 1\n1 2 0.5\n2 2\n3 2\n3 0 # the last\n",
        "0,1\n1,2,0.5\n2,2\n3, 2\n3,0 # the last, at last\n",
        "\ufeff0\t1\n1\t2\t{'weight': 0.5}\n2\t3\n\n0\t3\n",
    ],
    ids=["space", "comma", "tab"],
)
def test_edge_list(tmp_path, text: str) -> None:
    graph = topology.build(written(tmp_path, text), num_nodes=4)
    assert nx.utils.graphs_equal(graph, topology.build("ring", 4))


def test_named_vertices_are_numbered_in_sorted_order(tmp_path) -> None:
    graph = topology.build(written(tmp_path, "pi,jetson nano\njetson nano,7\n", "site.csv"), num_nodes=3)
    assert dict(graph.nodes(data="name")) == {0: "7", 1: "jetson nano", 2: "pi"}
    assert sorted(graph.edges) == [(0, 1), (1, 2)]


def test_graphml_keeps_its_directions(tmp_path) -> None:
    path = tmp_path / "graph.graphml"
    nx.write_graphml(nx.DiGraph([("b", "a"), ("a", "c"), ("c", "b")]), path)
    graph = topology.build(str(path), num_nodes=3)
    assert graph.is_directed()
    assert sorted(graph.edges) == [(0, 2), (1, 0), (2, 1)]
    assert graph.nodes[2]["name"] == "c"


def test_undirected_graphml(tmp_path) -> None:
    path = tmp_path / "graph.graphml"
    nx.write_graphml(nx.path_graph(3), path)
    assert nx.utils.graphs_equal(topology.build(str(path), num_nodes=3), nx.path_graph(3))


def test_a_file_takes_no_options(tmp_path) -> None:
    path = written(tmp_path, "0 1\n")
    assert topology.options_of(path) == ()
    with pytest.raises(InputError, match="takes no options, but got 'degree'"):
        topology.build(path, 2, degree=3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 2\n2 3\n3 1\n", "must be 0 to 2, but it lacks 0 and has also 3"),
        ("0 1\n", "must be 0 to 2, but it lacks 2"),
        ("0 1\n1 2\n2 -3\n", "must be 0 to 2, but it has also -3"),
        ("a b\n", "has 2 vertices, named a, b, for a network of 3 nodes: is it an edge list"),
        ("", r"graph.edgelist contains no edges: a graph file is an edge list"),
        ("# only\n\n", "contains no edges"),
        ("0 1\nalone\n", r"graph.edgelist, line 2: 'alone' is not an edge"),
        ("0,1\n1,\n", r"line 2: '1,' is not an edge"),
        ("0 1\n2 2\n", "is not connected: it has 2 components"),
    ],
)
def test_edge_lists_refused(tmp_path, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        topology.build(written(tmp_path, text), num_nodes=3)


def test_one_way_graphml_is_refused(tmp_path) -> None:
    path = tmp_path / "graph.graphml"
    nx.write_graphml(nx.DiGraph([(0, 1), (1, 2)]), path)
    with pytest.raises(InputError, match="is not strongly connected: it has 3 components"):
        topology.build(str(path), num_nodes=3)


@pytest.mark.parametrize("text", ["0 1\n", "<a/>"])
def test_broken_graphml_is_refused(tmp_path, text: str) -> None:
    with pytest.raises(InputError, match=r"broken\.graphml is not a GraphML file: "):
        topology.build(written(tmp_path, text, "broken.graphml"), num_nodes=2)


def test_binary_file_is_refused(tmp_path) -> None:
    path = tmp_path / "graph.txt"
    path.write_bytes(b"\xff\xfe\x00\x9c")
    with pytest.raises(InputError, match=r"cannot read a graph from .*graph\.txt"):
        topology.build(str(path), num_nodes=2)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_nodes", "options", "sentence"),
    [
        ("rng", 4, {}, "unknown topology 'rng', did you mean 'ring'.*random-directed, an existing file"),
        ("no/such.edgelist", 4, {}, "unknown topology 'no/such.edgelist'"),
        ("ring", 4, {"degree": 3}, "topology 'ring' takes no options, but got 'degree'"),
        ("regular", 6, {"degre": 3}, r"unknown option of topology 'regular' 'degre', did you mean 'degree'"),
        ("ring", 1, {}, "at least 2 nodes, not 1"),
        ("ring", 4.0, {}, "num_nodes = 4.0 must be a whole number, at least 2"),
        ("ring", "4", {}, "num_nodes = '4' must be a whole number"),
        ("regular", 8, {"degree": 3.0}, "degree = 3.0 must be a whole number"),
        ("regular", 8, {"degree": "3"}, "degree = '3' must be a whole number"),
        ("erdos-renyi", 8, {"edge_probability": "0.5"}, "edge-probability = '0.5' must be a number"),
        ("torus", 13, {}, r"13 nodes have no such grid \(nearest: 12, 15\)"),
        ("torus", 4, {}, r"4 nodes have no such grid \(nearest: 9\)"),
        ("torus", 14, {}, r"nearest: 12, 15"),
        ("hypercube", 6, {}, r"not 6 nodes \(nearest: 4, 8\)"),
        ("regular", 4, {}, "degree = 4 is outside 1 to 3 for 4 nodes"),
        ("regular", 7, {"degree": 3}, "not 7 nodes of degree 3"),
        ("regular", 8, {"degree": 1}, "no connected graph: degree = 1 is too low for 8 nodes"),
        ("erdos-renyi", 8, {"edge_probability": 1.5}, r"edge-probability = 1.5 is outside \(0, 1\]"),
        ("erdos-renyi", 50, {"edge_probability": 0.001}, "edge-probability = 0.001 is too low for 50 nodes"),
        ("small-world", 8, {"degree": 3}, "degree = 3 must be even"),
        ("small-world", 8, {"degree": 8}, "degree = 8 is outside 2 to 7"),
        ("small-world", 8, {"rewire_probability": -0.1}, r"rewire-probability = -0.1 is outside \[0, 1\]"),
        ("scale-free", 8, {"attachment": 8}, "attachment = 8 is outside 1 to 7"),
        ("random-directed", 8, {"min_degree": 0}, "min-degree = 0 is outside 1 to 7"),
        ("random-directed", 8, {"min_degree": 3, "max_degree": 2}, "max-degree = 2 is outside 3 to 7"),
        ("random-directed", 3, {}, "max-degree = 3 is outside 1 to 2"),
    ],
)
def test_topologies_refused(name: str, num_nodes: int, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        topology.build(name, num_nodes, **options)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed = -1"):
        topology.build("ring", 4, seed=-1)


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
    monkeypatch.setattr(topology, "_BALANCING_STEPS", 1)
    with pytest.raises(
        InputError, match="the directed graph of 9 nodes could not be balanced to a doubly stochastic matrix in 1"
    ):
        topology.mixing_matrix(topology.build("random-directed", 9))


def test_unknown_vertex_is_refused() -> None:
    with pytest.raises(InputError, match="no vertex 4"):
        topology.neighbors(topology.build("ring", 4), 4)
