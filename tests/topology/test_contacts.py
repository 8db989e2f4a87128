import networkx as nx
import numpy as np
import pytest
from drawn_graphs import SEEDS, built
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.topology import Contacts, GraphSequence, Mixing


def contacts(graph: nx.Graph, seed: int = 0, participation: float = 1.0, message_loss: float = 0.0) -> Contacts:
    return Contacts(GraphSequence.of(graph), seed, participation, message_loss)


def test_a_perfect_network_is_its_graph() -> None:
    star = nx.star_graph(3)
    perfect = contacts(star)
    assert perfect.graph(5) is star
    assert perfect.received(5) is None
    assert perfect.taking_part(5).all()
    assert perfect.receivers(5).tolist() == [3, 1, 1, 1]
    assert contacts(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)])).receivers(0).tolist() == [2, 1, 1]


@pytest.mark.parametrize(("participation", "drawn"), [(0.5, 4), (0.2, 2), (0.01, 1), (1.0, 8)])
def test_a_share_of_the_nodes_takes_part_each_in_turn(participation: float, drawn: int) -> None:
    drawings = np.array([contacts(nx.cycle_graph(8), 1, participation).taking_part(k) for k in range(100)])
    assert (drawings.sum(axis=1) == drawn).all()
    assert drawings.any(axis=0).all()
    again = contacts(nx.complete_graph(8), 1, participation)  # whatever the graph
    assert (drawings == [again.taking_part(k) for k in range(100)]).all()
    if drawn < 8:
        assert (drawings != [contacts(nx.cycle_graph(8), 2, participation).taking_part(k) for k in range(100)]).any()


def test_messages_are_sent_between_nodes_that_take_part() -> None:
    some = contacts(nx.complete_graph(6), 3, participation=0.5)
    drawn = some.taking_part(4)
    assert some.receivers(4).tolist() == np.where(drawn, 2, 0).tolist()
    assert set(some.graph(4).edges) == {(n, m) for n in np.flatnonzero(drawn) for m in np.flatnonzero(drawn) if n != m}


def test_messages_are_lost_with_their_probability_in_each_direction_apart() -> None:
    lossy = contacts(nx.complete_graph(40), 0, message_loss=0.3)
    arrived = np.array([lossy.received(k).toarray() for k in range(20)])
    others = ~np.eye(40, dtype=bool)
    assert (arrived[:, ~others] == 1).all()
    assert arrived[:, others].mean() == pytest.approx(0.7, abs=0.012)  # four standard deviations
    both = arrived * arrived.transpose(0, 2, 1)
    assert both[:, others].mean() == pytest.approx(0.49, abs=0.02)
    assert (lossy.receivers(0) == 39).all()  # those that are lost were sent


def test_what_is_lost_does_not_depend_on_who_takes_part() -> None:
    ring = nx.cycle_graph(30)
    everyone, some = (contacts(ring, 2, share, 0.4) for share in (1.0, 0.7))
    drawn = some.taking_part(1)
    expected = everyone.received(1).toarray() * np.outer(drawn, drawn)
    np.testing.assert_array_equal(some.received(1).toarray(), expected)


@settings(deadline=None, max_examples=40)
@given(built(), SEEDS, st.sampled_from([0.2, 0.7, 1.0]), st.sampled_from([0.0, 0.3, 0.9]), st.booleans())
def test_a_node_mixes_what_it_receives(
    graph: nx.Graph, seed: int, participation: float, message_loss: float, both_ways: bool
) -> None:
    both_ways &= not graph.is_directed() or message_loss == 0
    some = contacts(graph, seed, participation, message_loss)
    some = some.used_both_ways() if both_ways else some
    drawn, heard = some.taking_part(2), some.graph(2)
    matrix = Mixing(graph).among(drawn, 2, some.received(2)).toarray()
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-9)
    if both_ways or (participation == 1 and message_loss == 0):
        np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-9)
    for n, m in zip(*np.nonzero(matrix), strict=True):
        assert n == m or heard.has_edge(m, n)
    np.testing.assert_array_equal(matrix[~drawn], np.eye(len(graph))[~drawn])


def test_lost_weights_go_to_the_receiver() -> None:
    # The message from 1 to 0 is lost, and no other.
    path = nx.path_graph(3)
    lossy = next(
        found
        for seed in range(1000)
        if set((found := contacts(path, seed, message_loss=0.5)).graph(0).edges) == {(0, 1), (1, 2), (2, 1)}
    )
    third = 1 / 3
    present = np.ones(3, dtype=bool)
    alone = Mixing(path).among(present, 0, lossy.received(0)).toarray()
    np.testing.assert_allclose(alone, [[1, 0, 0], [third, third, third], [0, third, 2 * third]])
    together = Mixing(path).among(present, 0, lossy.used_both_ways().received(0)).toarray()
    np.testing.assert_allclose(together, [[1, 0, 0], [0, 2 * third, third], [0, third, 2 * third]])


def test_directed_messages_cannot_be_lost_both_ways() -> None:
    directed = contacts(topology.build("random-directed", 8), message_loss=0.1)
    with pytest.raises(InputError, match=r"message-loss = 0.1 needs an undirected graph with consensus = 'tracking'"):
        directed.used_both_ways()
