import time

import networkx as nx
import numpy as np
import pytest

from flower_kd import topology
from flower_kd.report.pictures.layouts import layout


def on_a_circle(places: np.ndarray) -> bool:
    return bool(np.allclose(np.hypot(*places.T), 1))


@pytest.mark.parametrize(
    ("name", "nodes"), [("ring", 5), ("complete", 7), ("regular", 16), ("exponential", 12), ("small-world", 20)]
)
def test_rings_and_regular_graphs_are_circles(name: str, nodes: int) -> None:
    places = layout(topology.build(name, nodes)).places
    assert on_a_circle(places)
    assert places[0] == pytest.approx([0, 1])
    assert places[1][0] > 0  # clockwise


def test_a_ring_is_a_circle_in_the_order_of_its_edges() -> None:
    order = [0, 3, 1, 4, 2]
    graph = nx.Graph([(order[k - 1], order[k]) for k in range(5)])
    places = layout(graph).places
    lengths = [np.hypot(*(places[a] - places[b])) for a, b in graph.edges]
    assert lengths == pytest.approx([2 * np.sin(np.pi / 5)] * 5)


@pytest.mark.parametrize("hub", [0, 3])
def test_the_hub_of_a_star_is_in_its_center(hub: int) -> None:
    graph = nx.relabel_nodes(nx.star_graph(5), {0: hub, hub: 0})
    places = layout(graph).places
    assert places[hub] == pytest.approx([0, 0])
    assert on_a_circle(np.delete(places, hub, axis=0))


@pytest.mark.parametrize(("nodes", "rows", "columns"), [(9, 3, 3), (16, 4, 4), (12, 3, 4), (50, 5, 10)])
def test_a_torus_is_a_grid(nodes: int, rows: int, columns: int) -> None:
    found = layout(topology.build("torus", nodes))
    assert found.places[0].tolist() == [0, 0]
    assert found.places[nodes - 1].tolist() == [columns - 1, 1 - rows]
    assert len(found.wrapped) == rows + columns
    for ends in found.wrapped.values():
        for start, end in ends:
            assert not (0 <= end[0] <= columns - 1 and 1 - rows <= end[1] <= 0)  # out of the grid
            assert np.abs(np.array(start) - end).sum() < 1


def test_a_directed_torus_is_a_circle() -> None:
    """Its arrows would lie on one another."""
    found = layout(topology.build("torus", 9).to_directed())
    assert on_a_circle(found.places)
    assert not found.wrapped


@pytest.mark.parametrize("dimension", [3, 4, 5, 6, 7])
def test_a_hypercube_is_a_projection_in_which_nothing_coincides(dimension: int) -> None:
    graph = topology.build("hypercube", 2**dimension)
    places = layout(graph).places
    directions = {}
    for a, b in graph.edges:
        directions.setdefault((a ^ b).bit_length(), []).append(places[max(a, b)] - places[min(a, b)])
    for parallel in directions.values():
        assert np.allclose(parallel, parallel[0])
    distances = np.hypot(*(places[:, None] - places[None]).T) + 9 * np.eye(len(places))
    assert distances.min() > 0.1
    for a, b in graph.edges:  # no vertex lies on an edge that is not its own
        along = places[b] - places[a]
        share = (places - places[a]) @ along / (along @ along)
        away = np.hypot(*(places - places[a] - share[:, None] * along).T)
        on_edge = (share > 0.01) & (share < 0.99) & (away < 0.02)
        assert not on_edge.any()


@pytest.mark.parametrize(
    ("name", "nodes"), [("erdos-renyi", 16), ("erdos-renyi", 150), ("random-directed", 20), ("scale-free", 700)]
)
def test_other_graphs_have_distinct_places_the_same_every_time(name: str, nodes: int) -> None:
    from flower_kd.report.pictures import layouts

    graph = topology.build(name, nodes)
    places = layout(graph).places
    layouts._layout.cache_clear()
    assert np.array_equal(places, layout(graph).places)
    assert len(np.unique(places.round(9), axis=0)) > 0.9 * nodes
    assert np.isfinite(places).all()


def test_a_large_graph_is_laid_out_in_seconds() -> None:
    graph = topology.build("regular", 3000)
    started = time.process_time()
    layout(graph)
    assert time.process_time() - started < 5
