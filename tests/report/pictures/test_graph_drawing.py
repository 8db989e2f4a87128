import networkx as nx
import numpy as np
import pytest

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.report import pictures
from flower_kd.report.pictures import Final

pytestmark = pytest.mark.filterwarnings("error")


def num_lines(axes) -> int:
    return sum(len(lines.get_segments()) for lines in axes.collections[:-1])


def test_vertices_have_the_color_of_their_accuracy() -> None:
    graph = topology.build("ring", 4)
    figure = pictures.graphs_by_accuracy({"a": Final(graph, [0.2, 0.2, 0.8, None]), "b": Final(graph, [0.8] * 4)})
    first, second = (axes.collections[-1].get_facecolors() for axes in figure.axes[:2])
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])
    assert np.array_equal(first[2], second[0])  # one scale for all
    assert np.ptp(first[3][:3]) == 0  # gray
    assert "gray: none" in figure.axes[-1].get_ylabel()


@pytest.mark.parametrize("accuracies", [[0.5] * 6, [None] * 6])
def test_accuracies_that_are_all_equal_or_missing(accuracies: list) -> None:
    graph = topology.build("random-directed", 6, seed=1)
    assert pictures.files(pictures.graphs_by_accuracy({"a": Final(graph, accuracies)}), "graphs")


@pytest.mark.parametrize(
    ("name", "nodes"), [("ring", 8), ("random-directed", 12), ("star", 65), ("regular", 300), ("hypercube", 16)]
)
def test_every_vertex_and_edge_is_drawn(name: str, nodes: int) -> None:
    graph = topology.build(name, nodes, seed=2)
    figure = pictures.draw_graph(graph, name)
    axes = figure.axes[0]
    assert len(axes.collections[-1].get_offsets()) == nodes
    assert (len(axes.patches) if graph.is_directed() else num_lines(axes)) == graph.number_of_edges()
    assert len(axes.texts) == (nodes if nodes <= 64 else 0)


def test_an_edge_of_a_torus_that_wraps_is_two_dotted_ends() -> None:
    axes = pictures.draw_graph(topology.build("torus", 12), "torus").axes[0]
    straight, ends, _ = axes.collections
    assert (len(straight.get_segments()), len(ends.get_segments())) == (24 - 7, 2 * 7)
    assert straight.get_linestyle() != ends.get_linestyle()
    assert "opposite side" in axes.texts[-1].get_text()


def test_a_server_is_in_the_middle_of_its_nodes() -> None:
    axes = pictures.draw_graph(topology.build("torus", 9), "fedavg", server=True).axes[0]
    assert num_lines(axes) == 9
    assert "server" in {text.get_text() for text in axes.texts}
    places = axes.collections[-1].get_offsets()
    assert np.allclose(np.hypot(*places.T), 1)


def test_nodes_that_send_nothing_have_no_edges() -> None:
    figure = pictures.graphs_by_accuracy({"silo": Final(topology.build("torus", 9), [0.5] * 9, "none")})
    assert num_lines(figure.axes[0]) == 0
    assert len(figure.axes[0].collections[-1].get_offsets()) == 9


def test_vertices_with_names_are_named() -> None:
    graph = nx.relabel_nodes(nx.path_graph(["attic", "cellar", "hall"]), {"attic": 0, "cellar": 1, "hall": 2})
    nx.set_node_attributes(graph, {0: "attic", 1: "cellar", 2: "hall"}, "name")
    texts = {text.get_text() for text in pictures.draw_graph(graph, "house").axes[0].texts}
    assert texts == {"attic", "cellar", "hall"}


def test_nothing_to_draw_is_one_sentence() -> None:
    with pytest.raises(InputError, match="there is no finished run"):
        pictures.graphs_by_accuracy({})
