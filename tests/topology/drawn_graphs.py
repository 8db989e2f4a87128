"""Graphs drawn by hypothesis: every topology with one graph for all exchanges, and any strongly connected graph."""

from __future__ import annotations

import networkx as nx
from hypothesis import strategies as st

from flower_kd import topology

# Sizes that each topology takes with its defaults.
SIZES = {
    "torus": st.sampled_from([9, 12, 15, 16, 30, 64]),
    "hypercube": st.sampled_from([2, 4, 8, 16, 64]),
    "regular": st.integers(5, 60),
    "small-world": st.integers(5, 60),
    "scale-free": st.integers(3, 60),
    "random-directed": st.integers(4, 60),
}


VARYING = ["varying", "one-peer-exponential"]
STATIC = [name for name in topology.names() if name not in VARYING]

SEEDS = st.integers(0, 2**32)


@st.composite
def built(draw: st.DrawFn) -> nx.Graph:
    name = draw(st.sampled_from(STATIC))
    return topology.build(name, draw(SIZES.get(name, st.integers(2, 60))), seed=draw(SEEDS))


@st.composite
def strongly_connected(draw: st.DrawFn) -> nx.DiGraph:
    num_nodes = draw(st.integers(2, 25))
    vertex = st.integers(0, num_nodes - 1)
    graph = nx.cycle_graph(draw(st.permutations(range(num_nodes))), create_using=nx.DiGraph)
    graph.add_edges_from(draw(st.lists(st.tuples(vertex, vertex), max_size=60)))
    return graph
