"""Topologies by name, built from their options or from a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

import networkx as nx
import numpy as np

from flower_kd.errors import InputError
from flower_kd.ranges import require_number, require_whole
from flower_kd.registry import Registry, unknown
from flower_kd.seeding import derive
from flower_kd.topology.checks import require_two
from flower_kd.topology.files import read_graph

# (number of nodes, random stream, *, the topology's own options) -> connected graph with vertices 0, 1, ...
Builder = Callable[..., nx.Graph]

TOPOLOGIES: Registry[Builder] = Registry("topology")


def names() -> list[str]:
    """Return the names of the topologies."""
    return TOPOLOGIES.names()


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of a topology's options; a file has none.

    Raises
    ------
    InputError
        If `name` is neither a topology nor an existing file.
    """
    parameters = inspect.signature(_builder(name)).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def build(name: str, num_nodes: int, seed: int = 0, **options: float | None) -> nx.Graph:
    """Return a connected communication graph.

    Parameters
    ----------
    name : str
        One of `names()`, or the path of a file. A `.graphml` file is GraphML, which may be directed; any other file is
        an undirected edge list: two vertices per line, separated by white space or a comma, comments after `#`. Edge
        weights and self-loops in files are ignored. Vertices are 0 to `num_nodes - 1`; if any has another name,
        all are numbered in the sorted order of their names, which are kept as the attribute "name".
    num_nodes : int
        Number of vertices, at least 2.
    seed : int
        Seed of the random topologies; not negative.
    **options
        Options of the topology, see `options_of`.

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
    builder, allowed = _builder(name), options_of(name)
    for option in options:
        if not allowed:
            raise InputError(f"topology {name!r} takes no options, but got {option!r}")
        if option not in allowed:
            raise InputError(unknown(f"option of topology {name!r}", option, list(allowed)))
    require_two(num_nodes)
    require_whole("seed", seed, 0)
    for option, value in options.items():
        parameter = inspect.signature(builder).parameters[option]
        if parameter.annotation in (int, "int"):
            require_whole(option.replace("_", "-"), value, 0)
        elif value is not parameter.default:
            require_number(option.replace("_", "-"), value)
    return builder(num_nodes, np.random.default_rng(derive(seed, "topology")), **options)


def _builder(name: str) -> Builder:
    if name in TOPOLOGIES:
        return TOPOLOGIES.get(name)
    if Path(name).is_file():
        return partial(read_graph, Path(name))
    raise InputError(unknown("topology", name, [*names(), "an existing file"]))
