"""Communication graphs from files: edge lists and GraphML."""

from __future__ import annotations

import re
from pathlib import Path

import networkx as nx

from flower_kd.errors import InputError
from flower_kd.topology.checks import require_connected, some


def read_graph(path: Path, num_nodes: int) -> nx.Graph:
    """Return the graph in a file, see `flower_kd.topology.build`; raises InputError if it is unusable."""
    found = _read(path)
    vertex_names = {vertex: str(vertex).strip() for vertex in found}
    numbered = all(re.fullmatch(r"-?\d+", name) for name in vertex_names.values())
    number = (_by_number if numbered else _by_rank)(path, set(vertex_names.values()), num_nodes)
    graph = nx.DiGraph() if found.is_directed() else nx.Graph()
    graph.add_nodes_from(range(num_nodes))
    if not numbered:
        nx.set_node_attributes(graph, {vertex: name for name, vertex in number.items()}, "name")
    edges = ((number[vertex_names[source]], number[vertex_names[target]]) for source, target in found.edges())
    graph.add_edges_from((source, target) for source, target in edges if source != target)
    require_connected(graph, f"the graph in {path}")
    return graph


def _read(path: Path) -> nx.Graph:
    try:
        if path.suffix.lower() == ".graphml":
            return nx.read_graphml(path)
        return _parse_edges(path, path.read_text(encoding="utf-8-sig").splitlines())
    # A broken GraphML file ends in any of these (ParseError is a SyntaxError).
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read a graph from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read a graph from {path}: it is not a text file") from error
    except (ValueError, KeyError, SyntaxError, nx.NetworkXException) as error:
        raise InputError(f"{path} is not a GraphML file: {error}") from error


def _parse_edges(path: Path, lines: list[str]) -> nx.Graph:
    """Return the graph of an edge list; raises InputError at the first line that is not two vertices."""
    graph = nx.Graph()
    edges = [line.partition("#")[0].strip() for line in lines]
    by_comma = any("," in edge for edge in edges)
    for number, edge in enumerate(edges, start=1):
        if not edge:
            continue
        vertices = [word.strip() for word in (edge.split(",") if by_comma else edge.split())]
        if len(vertices) < 2 or not all(vertices[:2]):
            raise InputError(
                f"{path}, line {number}: {edge[:40]!r} is not an edge, it must be two vertices separated by white "
                "space or a comma"
            )
        graph.add_edge(*vertices[:2])
    if len(graph) == 0:
        raise InputError(
            f"{path} contains no edges: a graph file is an edge list, with two vertices per line, or GraphML"
        )
    return graph


def _by_number(path: Path, found: set[str], num_nodes: int) -> dict[str, int]:
    number = {name: int(name) for name in found}
    vertices, wanted = set(number.values()), set(range(num_nodes))
    if vertices != wanted:
        faults = {"lacks": sorted(wanted - vertices), "has also": sorted(vertices - wanted)}
        listed = " and ".join(f"{verb} {some(wrong)}" for verb, wrong in faults.items() if wrong)
        raise InputError(f"the vertices in {path} must be 0 to {num_nodes - 1}, but it {listed}")
    return number


def _by_rank(path: Path, found: set[str], num_nodes: int) -> dict[str, int]:
    if len(found) != num_nodes:
        raise InputError(
            f"the graph in {path} has {len(found)} vertices, named {some(sorted(found))}, for a network of {num_nodes}"
            " nodes: is it an edge list, with two vertices per line?"
        )
    return {name: vertex for vertex, name in enumerate(sorted(found))}
