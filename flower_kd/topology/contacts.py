"""Which nodes take part in an exchange, who sends to whom in it, and which of these messages arrive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import networkx as nx
import numpy as np
from scipy.sparse import csr_array, diags_array

from flower_kd.errors import InputError
from flower_kd.seeding import derive
from flower_kd.topology.mixing import in_adjacency
from flower_kd.topology.sequence import GraphSequence


@dataclass(frozen=True)
class Contacts:
    """Contacts of the nodes in each exchange; they depend on the seed and the exchange only.

    Parameters
    ----------
    graphs : GraphSequence
        The graph of each exchange. Nodes that take part send over its edges to others that take part.
    seed : int
        The run's seed.
    participation : float
        Share of the nodes that take part in an exchange, in (0, 1]: at least one, drawn anew in each.
    message_loss : float
        Probability that a message over an edge, in one direction, is lost, in [0, 1).
    both_ways : bool
        Whether an edge over which a message is lost is not used in the other direction either.
    """

    graphs: GraphSequence
    seed: int = 0
    participation: float = 1.0
    message_loss: float = 0.0
    both_ways: bool = False

    @property
    def perfect(self) -> bool:
        """Whether all nodes take part in all exchanges, and all messages arrive."""
        return self.participation == 1 and self.message_loss == 0

    def used_both_ways(self) -> Contacts:
        """Return contacts in which a lost message also costs that in the other direction.

        Raises
        ------
        InputError
            If messages are lost in directed graphs, where there may be none in the other direction.
        """
        if self.message_loss and self.graphs.directed:
            raise InputError(
                f"message-loss = {self.message_loss} needs an undirected graph with consensus = 'tracking', whose mean "
                "is kept only if both directions of an edge are lost together"
            )
        return replace(self, both_ways=True)

    def taking_part(self, exchange: int) -> np.ndarray:
        """Return which nodes take part in an exchange, bool [nodes]."""
        nodes = self.graphs.num_nodes
        if self.participation == 1:
            return np.ones(nodes, dtype=bool)
        rng = np.random.default_rng(derive(self.seed, "participation", exchange))
        drawn = np.zeros(nodes, dtype=bool)
        drawn[rng.choice(nodes, max(1, round(self.participation * nodes)), replace=False)] = True
        return drawn

    def receivers(self, exchange: int) -> np.ndarray:
        """Return the number of nodes to which each node sends in an exchange, [nodes]."""
        if self.participation == 1 and not self.graphs.varies:
            return self._receivers_of_all
        return _receivers_of_columns(self._sent(exchange))

    def received(self, exchange: int) -> csr_array | None:
        """Return whose messages arrive at whom, with a 1 at (n, m) if n receives what m sends, [nodes, nodes].

        The diagonal is 1 for nodes that take part. None if all messages between nodes that take part arrive, and
        weights of the others need no care: if all take part, or edges are used both ways.
        """
        if not self.message_loss and (self.participation == 1 or self.both_ways):
            return None
        return self._arriving(exchange)

    def graph(self, exchange: int) -> nx.Graph:
        """Return who receives from whom in an exchange: its graph, or a directed one if not everything arrives."""
        if self.perfect:
            return self.graphs.at(exchange)
        arriving = self._arriving(exchange).tocoo()
        heard = nx.DiGraph()
        heard.add_nodes_from(range(self.graphs.num_nodes))
        pairs = zip(arriving.col.tolist(), arriving.row.tolist(), strict=True)
        heard.add_edges_from((sender, receiver) for sender, receiver in pairs if sender != receiver)
        return heard

    @cached_property
    def _receivers_of_all(self) -> np.ndarray:
        return _receivers_of_columns(self._sent(0))

    @cached_property
    def _only_pattern(self) -> csr_array:
        return in_adjacency(self.graphs.at(0))

    def _pattern(self, exchange: int) -> csr_array:
        return in_adjacency(self.graphs.at(exchange)) if self.graphs.varies else self._only_pattern

    def _sent(self, exchange: int) -> csr_array:
        """Return a 1 at (n, m) if m sends to n, and on the diagonal for nodes that take part."""
        pattern = self._pattern(exchange)
        if self.participation == 1:
            return pattern
        here = diags_array(self.taking_part(exchange).astype(float))
        sent = csr_array(here @ pattern @ here)
        sent.eliminate_zeros()
        return sent

    def _arriving(self, exchange: int) -> csr_array:
        sent = self._sent(exchange)
        if not self.message_loss:
            return sent
        # Drawn for each edge of the graph, in the order of receivers and senders: it does not matter who takes part.
        kept = self._pattern(exchange).copy()
        kept.sort_indices()
        rng = np.random.default_rng(derive(self.seed, "message loss", exchange))
        kept.data = (rng.random(kept.nnz) >= self.message_loss).astype(float)
        kept.setdiag(1.0)
        if self.both_ways:
            kept = kept.multiply(kept.T)
        arriving = csr_array(sent.multiply(kept))
        arriving.eliminate_zeros()
        return arriving


def _receivers_of_columns(sent: csr_array) -> np.ndarray:
    """Return the number of receivers of each sender, [nodes], without itself."""
    return np.bincount(sent.indices, minlength=sent.shape[0]) - (sent.diagonal() > 0)
