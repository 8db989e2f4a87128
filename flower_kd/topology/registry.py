"""Topologies by name, built from their options or from a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from flower_kd.errors import InputError, of_type, unknown
from flower_kd.parts import signatures
from flower_kd.parts.registry import OWN, Registry, with_colon
from flower_kd.parts.text import PartText, is_own
from flower_kd.ranges import require_whole
from flower_kd.seeding import derive
from flower_kd.topology.checks import is_connected, require_connected, require_two
from flower_kd.topology.files import read_graph
from flower_kd.topology.sequence import GraphSequence

# (number of nodes, random stream, *, the topology's own settings) -> graph with vertices 0, 1, ...
# One with a further parameter `exchange`, the number of an exchange from 0, is called for each of them.
Builder = Callable[..., nx.Graph]

EXCHANGE = "exchange"

TOPOLOGIES: Registry[Builder] = Registry(
    "topology", group="flower_kd.topologies", given=("num_nodes", "rng", EXCHANGE), also="an existing file"
)

_DRAWS = 100


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
        TOPOLOGIES.make(name)


def build(name: str, num_nodes: int, seed: int = 0, **options: Any) -> nx.Graph:
    """Return a connected communication graph, the same for all exchanges.

    A random graph is drawn up to 100 times, until it is connected.

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
        If the name, an option, the number of nodes or the file is unusable, or the topology is another one in each
        exchange (see `sequence`).

    Examples
    --------
    >>> sorted(build("ring", num_nodes=4).edges)
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """
    graphs = sequence(name, num_nodes, seed, exchanges=1, **options)
    if graphs.varies:
        raise InputError(f"topology {name!r} is another graph in each exchange: use topology.sequence")
    return graphs.union


def sequence(name: str, num_nodes: int, seed: int = 0, *, exchanges: int, **options: Any) -> GraphSequence:
    """Return the communication graph of each exchange.

    Parameters
    ----------
    name, num_nodes, seed, **options
        As in `build`.
    exchanges : int
        Number of exchanges of the run. Over these, the union of the graphs must be connected.

    Raises
    ------
    InputError
        If the name, an option, the number of nodes or the file is unusable, or the union is not connected.

    Examples
    --------
    >>> graphs = sequence("one-peer-exponential", num_nodes=4, exchanges=2)
    >>> sorted(graphs.at(1).edges)
    [(0, 2), (1, 3), (2, 0), (3, 1)]
    """
    require_two(num_nodes)
    require_whole("seed", seed, 0)
    require_whole("exchanges", exchanges, 1)
    if is_file(name):
        path = Path(name)
        if not os.path.isfile(path):
            meant = with_colon(name.partition("(")[0])
            raise InputError(unknown("topology", name, [*names(), OWN, "an existing file"], meant))
        if options:
            raise InputError(f"topology {name!r} is a file, which takes no arguments, but got {next(iter(options))!r}")
        return GraphSequence.of(read_graph(path, num_nodes))
    builder = TOPOLOGIES.make(name, **options)
    part = TOPOLOGIES.parse(name)
    text = str(PartText(part.name, {**part.arguments, **options}))

    def call(rng: np.random.Generator, **given: int) -> nx.Graph:
        graph = TOPOLOGIES.call(name, builder, num_nodes, rng, **given)
        _check_graph(name, graph, num_nodes)
        return graph

    if varies(builder):
        graphs = GraphSequence(
            lambda exchange: call(stream(seed, exchange), exchange=exchange), exchanges, f"the graphs of {text!r}"
        )
        graphs.union  # noqa: B018  # raises InputError unless it is connected
        return graphs
    rng = stream(seed)
    start = rng.bit_generator.state
    graph = first_connected(lambda: call(rng), rng)
    if not is_connected(graph) and rng.bit_generator.state != start:
        raise InputError(f"{_DRAWS} draws of topology {text!r} gave no connected graph of {num_nodes} nodes")
    require_connected(graph, f"the graph of topology {name!r}")
    return GraphSequence.of(graph)


def varies(builder: Builder) -> bool:
    """Return whether a topology has another graph in each exchange: whether it has a parameter `exchange`."""
    return EXCHANGE in signatures.parameters_of(builder)


def stream(seed: int, *exchange: int) -> np.random.Generator:
    """Return the random stream of a topology, or of one of its exchanges."""
    return np.random.default_rng(derive(seed, "topology", *exchange))


def first_connected(draw: Callable[[], nx.Graph], rng: np.random.Generator) -> nx.Graph:
    """Return the first of up to 100 draws that is connected; the last if none is, or draws do not use the stream."""
    for _ in range(_DRAWS):
        before = rng.bit_generator.state
        graph = draw()
        if rng.bit_generator.state == before or is_connected(graph):
            break
    return graph


def _check_graph(name: str, graph: object, num_nodes: int) -> None:
    if not isinstance(graph, nx.Graph):
        raise InputError(f"topology {name!r} returns {of_type(graph)}, not a networkx graph")
    if set(graph) != set(range(num_nodes)):
        raise InputError(f"topology {name!r} returns a graph whose vertices are not 0 to {num_nodes - 1}")
