from functools import reduce

import networkx as nx
import numpy as np
import pytest
from drawn_graphs import SEEDS
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.topology import GraphSequence, Mixing

RANDOM = ["erdos-renyi(edge_probability=0.2)", "regular(degree=1)", "small-world(degree=2)", "random-directed"]


@st.composite
def sequences(draw: st.DrawFn) -> GraphSequence:
    graph = draw(st.sampled_from([*RANDOM, None]))
    name = f"varying(graph={graph!r})" if graph else "one-peer-exponential"
    num_nodes = 2 * draw(st.integers(2, 12)) if graph else draw(st.integers(2, 40))
    return topology.sequence(name, num_nodes, draw(SEEDS), exchanges=60)


@settings(deadline=None, max_examples=25)
@given(sequences(), st.data())
def test_each_exchange_has_its_own_graph_and_doubly_stochastic_weights(graphs: GraphSequence, data) -> None:
    exchanges = data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=4))
    edges = {exchange: set(graphs.at(exchange).edges) for exchange in exchanges}
    mixing, everyone = Mixing(graphs), np.ones(graphs.num_nodes, dtype=bool)
    for exchange in reversed(exchanges):  # in any order
        assert set(graphs.at(exchange).edges) == edges[exchange]
        matrix = mixing.among(everyone, exchange).toarray()
        np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-9)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-9)
        heard = {(int(m), int(n)) for n, m in zip(*np.nonzero(matrix), strict=True) if n != m}
        both_ways = edges[exchange] | ({(m, n) for n, m in edges[exchange]} if not graphs.directed else set())
        assert heard <= both_ways
        assert len(heard) == len(both_ways) or graphs.directed  # edges between strong components have no weight


def test_the_union_counts_in_how_many_exchanges_an_edge_is() -> None:
    graphs = topology.sequence("varying(graph='regular(degree=1)')", 6, seed=3, exchanges=20)
    counts = nx.get_edge_attributes(graphs.union, "exchanges")
    assert sum(counts.values()) == 20 * 3  # pairs of six nodes
    for (n, m), count in counts.items():
        assert count == sum(graphs.at(exchange).has_edge(n, m) for exchange in range(20))


def test_other_seeds_give_other_graphs() -> None:
    first, second = (topology.sequence("varying", 16, seed, exchanges=9) for seed in (0, 1))
    assert set(first.at(3).edges) != set(second.at(3).edges)
    assert set(first.at(3).edges) != set(first.at(4).edges)


@pytest.mark.parametrize(
    ("num_nodes", "hops"), [(2, [1, 1, 1]), (6, [1, 2, 4, 1]), (8, [1, 2, 4, 1]), (9, [1, 2, 4, 8])]
)
def test_one_peer_exponential_sends_to_one_node(num_nodes: int, hops: list[int]) -> None:
    graphs = topology.sequence("one-peer-exponential", num_nodes, exchanges=4)
    for exchange, hop in enumerate(hops):
        assert sorted(graphs.at(exchange).edges) == [(n, (n + hop) % num_nodes) for n in range(num_nodes)]


def test_one_peer_exponential_averages_exactly_in_log_n_exchanges() -> None:
    mixing = Mixing(topology.sequence("one-peer-exponential", 8, exchanges=3))
    everyone = np.ones(8, dtype=bool)
    matrices = [mixing.among(everyone, exchange).toarray() for exchange in range(3)]
    assert all(set(np.unique(matrix)) == {0.0, 0.5} for matrix in matrices)
    assert (matrices[1].nonzero()[1].reshape(8, 2) == [sorted([n, (n - 2) % 8]) for n in range(8)]).all()
    np.testing.assert_array_equal(reduce(lambda product, matrix: matrix @ product, matrices), np.full((8, 8), 1 / 8))


def test_components_of_a_directed_graph_mix_within_themselves() -> None:
    # 0 <-> 1 -> 2: what 2 receives has no weight, or the columns would not sum to 1.
    graph = nx.DiGraph([(0, 1), (1, 0), (1, 2)])
    expected = [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    np.testing.assert_allclose(topology.mixing_matrix(graph, connected=False).toarray(), expected)


def test_a_graph_is_a_sequence_that_does_not_vary() -> None:
    ring = topology.build("ring", 4)
    graphs = GraphSequence.of(ring)
    assert (graphs.varies, graphs.at(7), graphs.union) == (False, ring, ring)
    assert topology.sequence("ring", 4, exchanges=3).union.edges == ring.edges


@pytest.mark.parametrize(
    ("name", "num_nodes", "sentence"),
    [
        ("varying(graph=ring)", 8, r"varying\(graph='ring'\): with 8 nodes this topology is not random"),
        ("varying(graph='erdos-renyi(edge_probability=1)')", 8, "with 8 nodes this topology is not random"),
        ("varying(graph=one-peer-exponential)", 8, "this topology varies already"),
        ("varying(graph='graphs/lab.txt')", 8, r"a file is not random \(allowed: erdos-renyi, regular"),
        ("varying(graph=rin)", 8, "unknown topology 'rin', did you mean 'ring'"),
        ("varying(graph='regular(degre=1)')", 8, "unknown argument of topology 'regular' 'degre'"),
        ("varying(graph='erdos-renyi(edge_probability=0.01)')", 8, "the union of .* over 5 exchanges is not connected"),
        ("one-peer-exponential", 1, "at least 2 nodes, not 1"),
    ],
)
def test_sequences_refused(name: str, num_nodes: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        topology.sequence(name, num_nodes, exchanges=5)


def test_build_is_for_one_graph() -> None:
    with pytest.raises(InputError, match=r"another graph in each exchange: use topology.sequence"):
        topology.build("one-peer-exponential", 8)
