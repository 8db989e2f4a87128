from __future__ import annotations

import networkx as nx
import pytest

from flower_kd import topology
from flower_kd.errors import InputError


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
    with pytest.raises(InputError, match="is a file, which takes no arguments, but got 'degree'"):
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


def test_a_text_too_long_for_a_file_is_none() -> None:
    assert not topology.is_file(f"my.parts:graph(name={'a' * 300})")
    with pytest.raises(InputError, match="unknown topology"):
        topology.build(f"./{'a' * 300}", 4)
