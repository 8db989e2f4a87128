"""The registered topologies with another graph in each exchange: functions that also take the exchange."""

from __future__ import annotations

import networkx as nx
import numpy as np

from flower_kd.errors import InputError
from flower_kd.topology.registry import TOPOLOGIES, is_file, varies

_RANDOM = "erdos-renyi, regular, small-world, scale-free, random-directed"


@TOPOLOGIES.register("varying")
class Varying:
    """A new random graph in each exchange, which need not be connected.

    Parameters
    ----------
    graph : str
        A random topology with its settings; "regular(degree=1)" pairs all nodes at random.
    """

    def __init__(self, *, graph: str = "erdos-renyi") -> None:
        if is_file(graph):
            raise InputError(
                f"varying(graph={graph!r}): a file is not random (allowed: {_RANDOM}, with settings in quotes: "
                "varying(graph='regular(degree=2)'))"
            )
        self.name = graph
        self.builder = TOPOLOGIES.make(graph)
        if varies(self.builder):
            raise InputError(f"varying(graph={graph!r}): this topology varies already")

    def __call__(self, num_nodes: int, rng: np.random.Generator, exchange: int) -> nx.Graph:
        """Return the graph of an exchange; raises InputError if the topology is not random."""
        before = rng.bit_generator.state
        graph = TOPOLOGIES.call(self.name, self.builder, num_nodes, rng)
        if rng.bit_generator.state == before:
            raise InputError(
                f"varying(graph={self.name!r}): with {num_nodes} nodes this topology is not random "
                f"(random ones are {_RANDOM})"
            )
        return graph


def drawn_by(text: str) -> str:
    """Return the topology that one named by a text draws from in each exchange; empty if there is none."""
    part = TOPOLOGIES.parse(text)
    return str(part.arguments.get("graph", "")) if TOPOLOGIES.get(part.name) is Varying else ""


@TOPOLOGIES.register("one-peer-exponential")
def one_peer_exponential(num_nodes: int, rng: np.random.Generator, exchange: int) -> nx.DiGraph:
    """Return the graph in which each node sends to the one that is 2^(exchange mod log2 nodes) further on.

    With log2 nodes rounded up if it is not whole. All weights of its mixing matrix are 1/2; for a power of two, the
    product of log2 nodes matrices in a row is the average over all nodes (Assran et al., Stochastic Gradient Push,
    ICML 2019; Ying et al., Exponential Graph is Provably Efficient for Decentralized Deep Training, NeurIPS 2021).
    """
    hop = 2 ** (exchange % (num_nodes - 1).bit_length())
    graph = nx.DiGraph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from((vertex, (vertex + hop) % num_nodes) for vertex in range(num_nodes))
    return graph
