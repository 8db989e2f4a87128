"""The communication graph of each exchange: the same in all, or another one in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property

import networkx as nx

from flower_kd.errors import InputError
from flower_kd.topology.checks import require_connected

EXCHANGES = "exchanges"  # of an edge of a union: the number of exchanges whose graph has it


class GraphSequence:
    """The communication graphs of a run's exchanges, and their union.

    Parameters
    ----------
    draw : callable (int) -> networkx graph
        Returns the graph of an exchange, from 0: the same one in each call, with vertices 0, 1, ...; all are directed,
        or none is. They need not be connected.
    exchanges : int
        Number of exchanges of the run, over which the union is taken.
    what : str
        What draws them, for errors.
    """

    def __init__(self, draw: Callable[[int], nx.Graph], exchanges: int, what: str = "the graphs") -> None:
        self._draw = draw
        self._last: tuple[int, nx.Graph] | None = None
        self.exchanges = exchanges
        self.what = what
        self.varies = True
        """Whether exchanges have different graphs."""

    @classmethod
    def of(cls, graph: nx.Graph | GraphSequence) -> GraphSequence:
        """Return a graph as a sequence that does not vary; a sequence as it is.

        Raises
        ------
        InputError
            If it is neither.
        """
        if isinstance(graph, GraphSequence):
            return graph
        if not isinstance(graph, nx.Graph):
            raise InputError(
                f"the graph is of type {type(graph).__name__}, but must be a networkx graph, as returned by "
                "topology.build, or a topology.sequence"
            )
        constant = cls(lambda exchange: graph, 1)
        constant.varies = False
        constant.__dict__["union"] = graph
        return constant

    @property
    def num_nodes(self) -> int:
        """Number of vertices."""
        return self.at(0).number_of_nodes()

    @property
    def directed(self) -> bool:
        """Whether the graphs are directed."""
        return self.at(0).is_directed()

    def at(self, exchange: int) -> nx.Graph:
        """Return the graph of an exchange, from 0; only the last one is kept."""
        exchange = exchange if self.varies else 0
        if self._last is None or self._last[0] != exchange:
            self._last = exchange, self._draw(exchange)
        return self._last[1]

    @cached_property
    def union(self) -> nx.Graph:
        """The graph with the edges of all exchanges; `exchanges` of an edge is the number of those that have it.

        Raises
        ------
        InputError
            If it is not connected, or not strongly if directed: some nodes would never learn from some others.
        """
        counts: Counter[tuple[int, int]] = Counter()
        union = self.at(0).__class__()
        union.add_nodes_from(range(self.num_nodes))
        for exchange in range(self.exchanges):
            edges = self.at(exchange).edges
            counts.update(edge if union.is_directed() else (min(edge), max(edge)) for edge in edges)
        union.add_edges_from((*edge, {EXCHANGES: count}) for edge, count in sorted(counts.items()))
        require_connected(union, f"the union of {self.what} over {self.exchanges} exchanges")
        return union
