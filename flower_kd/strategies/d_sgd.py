"""Decentralized SGD: neighbors mix their weights (Lian et al., NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from flower_kd import topology, wire
from flower_kd.protocol import ARRAYS, Hello, Order
from flower_kd.ranges import NonNegative, Whole
from flower_kd.strategies.base import GraphStrategy
from flower_kd.strategies.clipping import clipped_matrix
from flower_kd.strategies.registry import STRATEGIES
from flower_kd.strategies.resumable import State
from flower_kd.strategies.weights import usable_weights


@STRATEGIES.register("d-sgd")
class DSGD(GraphStrategy):
    """After `exchange_every` local steps, each node's weights are averaged with its neighbors' by the mixing matrix.

    Decentralized SGD of Lian et al. (NeurIPS 2017), who have `exchange_every=1`.

    Parameters
    ----------
    graph : networkx graph
        Communication graph; the mixing matrix is doubly stochastic.
    clip : float
        Radius of self-centered clipping, in Euclidean distance of two nodes' weights; 0 for none.
    seed : int
        The run's seed.
    local_steps : int
        SGD steps per round; 25 if omitted.
    exchange_every : int
        SGD steps per exchange; must divide `local_steps`. 0, or omitted: once per round.
    evaluate_every : int
        Rounds between two evaluations; the last round is always evaluated. 1 if omitted.
    """

    same_model = True

    def __init__(self, graph: nx.Graph, *, clip: NonNegative = 0.0, seed: Whole = 0, **schedule: int) -> None:
        super().__init__(graph, Order(server_round=0, num_steps=0, seed=seed, reply="weights"), **schedule)
        self.mixing = topology.Mixing(graph)
        self.clip = clip
        self._mixed: dict[int, ArrayRecord] = {}  # latest mixed weights of each vertex
        self._unsent: set[int] = set()  # vertices that may not have received theirs

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Discard the weights of an earlier run."""
        self._mixed, self._unsent = {}, set()

    def node_returned(self, vertex: int, hello: Hello) -> None:
        """Resend its last mixed weights to a node that lost them: its initial ones would set the others back."""
        super().node_returned(vertex, hello)
        if hello.fresh and vertex in self._mixed:
            self._unsent.add(vertex)

    def state_dict(self) -> State:
        """Return each vertex's last mixed weights, and the vertices that may not have them."""
        mixed = self._mixed.items()
        arrays = {f"{vertex}/{name}": array.numpy() for vertex, record in mixed for name, array in record.items()}
        return arrays | {"unsent": np.array(sorted(self._unsent), dtype=np.int64)}

    def load_state_dict(self, state: State) -> None:
        """Restore each vertex's last mixed weights, and the vertices that may not have them."""
        self._unsent = set(state["unsent"].tolist())
        by_vertex: dict[int, dict[str, Array]] = {}
        for key, array in state.items():
            if key == "unsent":
                continue
            vertex, _, name = key.partition("/")
            by_vertex.setdefault(int(vertex), {})[name] = wire.as_array(array)
        self._mixed = {vertex: ArrayRecord(arrays) for vertex, arrays in by_vertex.items()}

    def payload(self, vertex: int) -> dict[str, ArrayRecord]:
        """Return a vertex's mixed weights, unless it already has them."""
        return {ARRAYS: self._mixed[vertex]} if vertex in self._unsent else {}

    # The mixed model is evaluated; nodes that replied need not get it again in the next train message.
    evaluation_payload = payload

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the metrics over nodes, which now have their mixed weights."""
        replies = list(replies)
        for reply in replies:
            self._unsent.discard(self._joined(None).vertex(reply.metadata.src_node_id))
        return super().aggregate_evaluate(server_round, replies)

    def absorb(self, replies: Iterable[tuple[int, RecordDict]]) -> dict[int, str]:
        """Mix the weights of the nodes that replied."""
        weights, refused = usable_weights(dict(replies), self._weights_at_start)
        present = np.zeros(self.num_nodes, dtype=bool)
        present[list(weights)] = True
        matrix = self.mixing.among(present)
        if self.clip:
            floats = {v: [a for a in arrays.values() if _is_averaged(a)] for v, arrays in weights.items()}
            matrix = clipped_matrix(matrix, floats, self.clip)
        # A node that sent nothing usable is resent what it may not have received.
        self._mixed = {vertex: mixed for vertex, mixed in self._mixed.items() if vertex not in weights}
        self._unsent.update(weights)
        for vertex in weights:
            row = slice(matrix.indptr[vertex], matrix.indptr[vertex + 1])
            shares = [(int(n), float(s)) for n, s in zip(matrix.indices[row], matrix.data[row], strict=True) if s > 0]
            self._mixed[vertex] = ArrayRecord(
                {name: wire.as_array(_average(own, name, shares, weights)) for name, own in weights[vertex].items()}
            )
        return refused


def _average(
    own: np.ndarray, name: str, shares: list[tuple[int, float]], weights: dict[int, wire.Arrays]
) -> np.ndarray:
    """Return the weighted mean of one array; counters (integers) stay the node's own."""
    if not _is_averaged(own):
        return own
    return np.asarray(sum(share * weights[node][name] for node, share in shares), dtype=own.dtype)


def _is_averaged(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating)
