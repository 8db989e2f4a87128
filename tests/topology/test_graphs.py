from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from drawn_graphs import built
from hypothesis import given, settings

from flower_kd import topology
from flower_kd.errors import InputError


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
        "varying",
        "one-peer-exponential",
    ]


@settings(deadline=None, max_examples=60)
@given(built())
def test_a_graph_is_simple_connected_and_numbered(graph: nx.Graph) -> None:
    assert sorted(graph) == list(range(len(graph)))
    assert all(type(vertex) is int for vertex in graph)
    assert not graph.is_multigraph()
    assert nx.number_of_selfloops(graph) == 0
    assert nx.is_strongly_connected(graph) if graph.is_directed() else nx.is_connected(graph)


@pytest.mark.parametrize("name", ["regular", "erdos-renyi", "small-world", "scale-free", "random-directed"])
def test_a_seed_fixes_a_random_graph(name: str) -> None:
    np.random.seed(1)
    edges = sorted(topology.build(name, 40, seed=3).edges)
    np.random.seed(2)
    assert sorted(topology.build(name, 40, seed=3).edges) == edges
    assert sorted(topology.build(name, 40, seed=4).edges) != edges


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


def test_settings_come_from_the_signature() -> None:
    assert list(topology.TOPOLOGIES.settings("random-directed")) == ["min_degree", "max_degree"]
    assert list(topology.TOPOLOGIES.settings("small-world")) == ["degree", "rewire_probability"]
    assert list(topology.TOPOLOGIES.settings("ring")) == []


def test_settings_in_parentheses_and_by_keyword_are_the_same() -> None:
    texts = topology.build("small-world(degree=2, rewire_probability=0.5)", 16, seed=3)
    keywords = topology.build("small-world(degree=2)", 16, seed=3, rewire_probability=0.5)
    assert sorted(texts.edges) == sorted(keywords.edges)
    with pytest.raises(InputError, match=r"topology 'regular\(degree=4\)' is given degree = 3 once more"):
        topology.build("regular(degree=4)", 8, degree=3)


@pytest.mark.parametrize(
    ("name", "num_nodes", "options", "sentence"),
    [
        ("regular(degre=3)", 8, {}, "unknown argument of topology 'regular' 'degre', did you mean 'degree'"),
        ("regular(4)", 8, {}, "cannot be read: '4' is not of the form key=value"),
        (
            "rng",
            4,
            {},
            "unknown topology 'rng', did you mean 'ring'.*one-peer-exponential, module:attribute, an existing file",
        ),
        ("no/such.edgelist", 4, {}, r"unknown topology 'no/such.edgelist' \(allowed"),
        ("math.sqrt(x=1)", 4, {}, "did you mean 'math:sqrt'"),
        ("ring", 4, {"degree": 3}, "topology 'ring' takes no arguments, but got 'degree'"),
        ("regular", 6, {"degre": 3}, r"unknown argument of topology 'regular' 'degre', did you mean 'degree'"),
        ("ring", 1, {}, "at least 2 nodes, not 1"),
        ("ring", 4.0, {}, "num_nodes = 4.0 must be a whole number, at least 2"),
        ("ring", "4", {}, "num_nodes = '4' must be a whole number"),
        ("regular", 8, {"degree": 3.0}, "degree = 3.0 must be a whole number"),
        ("regular", 8, {"degree": "3"}, "degree = '3' must be a whole number"),
        ("erdos-renyi", 8, {"edge_probability": "0.5"}, "edge_probability = '0.5' must be a number or None"),
        ("torus", 13, {}, r"13 nodes have no such grid \(nearest: 12, 15\)"),
        ("torus", 4, {}, r"4 nodes have no such grid \(nearest: 9\)"),
        ("torus", 14, {}, r"nearest: 12, 15"),
        ("hypercube", 6, {}, r"not 6 nodes \(nearest: 4, 8\)"),
        ("regular", 4, {}, "degree = 4 is outside 1 to 3 for 4 nodes"),
        ("regular", 7, {"degree": 3}, "not 7 nodes of degree 3"),
        ("regular", 8, {"degree": 1}, r"100 draws of .*'regular\(degree=1\)' gave no connected graph of 8 nodes"),
        ("erdos-renyi", 8, {"edge_probability": 1.5}, r"edge_probability = 1.5 must be above 0 and at most 1"),
        ("erdos-renyi", 50, {"edge_probability": 0.001}, r"=0.001\)' gave no connected graph of 50 nodes"),
        ("small-world", 8, {"degree": 3}, "degree = 3 must be even"),
        ("small-world", 8, {"degree": 8}, "degree = 8 is outside 2 to 7"),
        ("small-world", 8, {"rewire_probability": -0.1}, r"rewire_probability = -0.1 must be at least 0 and at most 1"),
        ("scale-free", 8, {"attachment": 8}, "attachment = 8 is outside 1 to 7"),
        ("random-directed", 8, {"min_degree": 0}, "min_degree = 0 must be at least 1"),
        ("random-directed", 8, {"min_degree": 3, "max_degree": 2}, "max_degree = 2 is outside 3 to 7"),
        ("random-directed", 3, {}, "max_degree = 3 is outside 1 to 2"),
    ],
)
def test_topologies_refused(name: str, num_nodes: int, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        topology.build(name, num_nodes, **options)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed = -1"):
        topology.build("ring", 4, seed=-1)
