"""Decentralized SGD: neighbors mix their weights (Lian et al., NeurIPS 2017), compressed or not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from scipy.sparse import csr_array, eye_array

from flower_kd import topology, wire
from flower_kd.errors import InputError
from flower_kd.protocol import ARRAYS, Greeting, Hello, Order
from flower_kd.ranges import NonNegative, Share, Whole
from flower_kd.strategies.base import GraphStrategy
from flower_kd.strategies.bases import Bases, compressor, start_weights
from flower_kd.strategies.clipping import clipped_matrix
from flower_kd.strategies.network import Network
from flower_kd.strategies.registry import STRATEGIES
from flower_kd.strategies.resumable import State
from flower_kd.strategies.weights import usable_weights
from flower_kd.topology import GraphSequence


@STRATEGIES.register("d-sgd")
class DSGD(GraphStrategy):
    """After `exchange_every` local steps, each node's weights are averaged with its neighbors' by the mixing matrix.

    Decentralized SGD of Lian et al. (NeurIPS 2017), who have `exchange_every=1`; with a compression, CHOCO-SGD
    (Koloskova, Stich and Jaggi, ICML 2019, algorithm 2): a node x_n has an estimate y_n that its neighbors have too. It
    sends C(x_n - y_n), by which all of them move y_n, and then x_n moves by `consensus_step` sum_m W_nm (y_m - y_n).
    Nodes start from y_n = x_n, known to all if they start from equal weights; otherwise they are sent once.

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        Communication graph; the mixing matrix is doubly stochastic.
    clip : float
        Radius of self-centered clipping, in Euclidean distance of two nodes' weights; 0 for none.
    compression : str
        Of the weights that nodes send; "none" for all of them in full.
    consensus_step : float
        Step toward the neighbors' estimates, gamma in CHOCO-SGD, up to 1, which mixes as without compression. 0 for the
        one of the compression.
    seed : int
        The run's seed.
    local_steps : int
        SGD steps per round; 25 if omitted.
    exchange_every : int
        SGD steps per exchange; must divide `local_steps`. 0, or omitted: once per round.
    evaluate_every : int
        Rounds between two evaluations; the last round is always evaluated. 1 if omitted.
    participation, message_loss : float
        As in GraphStrategy. The weight of a lost message goes to the receiver's own weights: rows of the mixing matrix
        sum to 1, its columns only on average.
    """

    same_model = True

    def __init__(
        self,
        graph: nx.Graph | GraphSequence,
        *,
        clip: NonNegative = 0.0,
        compression: str = "none",
        consensus_step: Share = 0.0,
        seed: Whole = 0,
        **schedule: Any,
    ) -> None:
        order = Order(server_round=0, num_steps=0, seed=seed, reply="weights", compression=compression)
        self.compressor = compressor(compression)
        super().__init__(graph, replace(order, moving_base=self.compressor is not None), **schedule)
        if consensus_step and self.compressor is None:
            raise InputError(f"consensus_step = {consensus_step} needs a compression")
        if self.compressor is not None:
            self.require_every_message(f"compression = {compression!r}", "'none'")
        self.mixing = topology.Mixing(self.graphs)
        self.clip = clip
        self.consensus_step = consensus_step or (self.compressor.consensus_step if self.compressor else 1.0)
        self._bases = Bases()
        self._mixed: dict[int, ArrayRecord] = {}  # latest mixed weights of each vertex
        self._unsent: set[int] = set()  # vertices that may not have received theirs

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Discard the weights of an earlier run; updates begin from those that the nodes have."""
        self._mixed, self._unsent, self._bases = {}, set(), Bases()
        if self.compressor is not None and not self.last_round:
            self._bases.set(range(self.num_nodes), start_weights(self._joined(None), self._weights_at_start))

    def network(self, grid: Grid) -> Network:
        """Return the grid as a Network that asks each node whether it has the compression."""
        network = super().network(grid)
        network.greeting = Greeting(compression=self.order.compression if self.compressor else "")
        return network

    def base(self, vertex: int) -> int:
        """Return the digest of a vertex's estimate."""
        return self._bases.digest(vertex)

    def node_returned(self, vertex: int, hello: Hello) -> None:
        """Resend its last mixed weights to a node that lost them: its initial or older ones would set others back."""
        super().node_returned(vertex, hello)
        if (hello.fresh or self._joined(None).is_behind(vertex)) and vertex in self._mixed:
            self._unsent.add(vertex)

    def state_dict(self) -> State:
        """Return each vertex's last mixed weights and its estimate, and the vertices that may not have the former."""
        mixed = self._mixed.items()
        arrays = {f"{vertex}/{name}": array.numpy() for vertex, record in mixed for name, array in record.items()}
        arrays |= self._bases.state_dict()
        return arrays | {"unsent": np.array(sorted(self._unsent), dtype=np.int64)}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._unsent = set(state["unsent"].tolist())
        self._bases.load_state_dict(state)
        by_vertex: dict[int, dict[str, Array]] = {}
        for key, array in state.items():
            vertex, _, name = key.partition("/")
            if not vertex.isdecimal():
                continue
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
        contents, refused = self._bases.expand(dict(replies), self.compressor)
        weights, unusable = usable_weights(contents, self._weights_at_start)
        refused |= unusable
        if self.compressor is not None:
            for vertex, estimate in weights.items():
                self._bases.set([vertex], estimate)
        present = np.zeros(self.num_nodes, dtype=bool)
        present[list(weights)] = True
        matrix = self.mixing.among(present, self._exchange, self.contacts.received(self._exchange))
        if self.clip:
            floats = {v: [a for a in arrays.values() if _is_averaged(a)] for v, arrays in weights.items()}
            matrix = clipped_matrix(matrix, floats, self.clip)
        if self.consensus_step != 1:
            matrix = csr_array(self.consensus_step * matrix + (1 - self.consensus_step) * eye_array(self.num_nodes))
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
