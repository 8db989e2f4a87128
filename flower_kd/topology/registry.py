"""Topologies by name, built from their options or from a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from flower_kd.errors import InputError, of_type, unknown
from flower_kd.parts.registry import OWN, Registry, with_colon
from flower_kd.parts.text import is_own
from flower_kd.ranges import require_whole
from flower_kd.seeding import derive
from flower_kd.topology.checks import require_connected, require_two
from flower_kd.topology.files import read_graph

# (number of nodes, random stream, *, the topology's own settings) -> connected graph with vertices 0, 1, ...
Builder = Callable[..., nx.Graph]

TOPOLOGIES: Registry[Builder] = Registry(
    "topology", group="flower_kd.topologies", given=("num_nodes", "rng"), also="an existing file"
)


def names() -> list[str]:
    """Return the names of the topologies."""
    return TOPOLOGIES.names()


def is_file(name: str) -> bool:
    """Return whether a topology's name is, or can only be, that of a file, which need not be on this machine."""
    if os.path.isfile(name):  # False for a part whose text is too long for a file, where Path.is_file() fails
        return True
    try:
        part = TOPOLOGIES.parse(name).name
    except InputError:
        return "(" not in name and ("." in name or "/" in name)
    return not is_own(part) and part not in TOPOLOGIES and "." in part


def check(name: str) -> None:
    """Raise InputError if a name is neither a topology with fitting settings nor looks like a file."""
    if not is_file(name):
        TOPOLOGIES.bind(name)


def build(name: str, num_nodes: int, seed: int = 0, **options: Any) -> nx.Graph:
    """Return a connected communication graph.

    Parameters
    ----------
    name : str
        One of `names()` or `module:attribute`, with settings in parentheses if it has any, such as
        "regular(degree=4)"; or the path of a file. A `.graphml` file is GraphML, which may be directed; any other file
        is an undirected edge list: two vertices per line, separated by white space or a comma, comments after `#`. Edge
        weights and self-loops in files are ignored. Vertices are 0 to `num_nodes - 1`; if any has another name, all are
        numbered in the sorted order of their names, which are kept as the attribute "name".
    num_nodes : int
        Number of vertices, at least 2.
    seed : int
        Seed of the random topologies; not negative.
    **options
        More settings of the topology.

    Returns
    -------
    networkx.Graph or networkx.DiGraph
        Vertices 0 to `num_nodes - 1`, no self-loops; a directed graph is strongly connected and u -> v means that v
        receives from u.

    Raises
    ------
    InputError
        If the name, an option, the number of nodes or the file is unusable.

    Examples
    --------
    >>> sorted(build("ring", num_nodes=4).edges)
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """
    require_two(num_nodes)
    require_whole("seed", seed, 0)
    if is_file(name):
        path = Path(name)
        if not os.path.isfile(path):
            meant = with_colon(name.partition("(")[0])
            raise InputError(unknown("topology", name, [*names(), OWN, "an existing file"], meant))
        if options:
            raise InputError(f"topology {name!r} is a file, which takes no arguments, but got {next(iter(options))!r}")
        return read_graph(path, num_nodes)
    builder = TOPOLOGIES.make(name, **options)
    graph = TOPOLOGIES.call(name, builder, num_nodes, np.random.default_rng(derive(seed, "topology")))
    _check_graph(name, graph, num_nodes)
    return graph


def _check_graph(name: str, graph: object, num_nodes: int) -> None:
    if not isinstance(graph, nx.Graph):
        raise InputError(f"topology {name!r} returns {of_type(graph)}, not a networkx graph")
    if set(graph) != set(range(num_nodes)):
        raise InputError(f"topology {name!r} returns a graph whose vertices are not 0 to {num_nodes - 1}")
    require_connected(graph, f"the graph of topology {name!r}")
