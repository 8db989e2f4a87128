"""Each node distills from its neighbors' predictions (the decentralized distillation of Molo et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import networkx as nx
import numpy as np
import torch
from flwr.serverapp import Grid
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from flower_kd import pooling as poolings
from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.pooling import RobustPooling, Teacher
from flower_kd.protocol import Hello, Order
from flower_kd.ranges import NonNegative, Positive, Share, Whole
from flower_kd.strategies.class_counts import bounded_class_counts
from flower_kd.strategies.distillation import DistillationStrategy, Reduction
from flower_kd.strategies.network import Network
from flower_kd.strategies.registry import STRATEGIES
from flower_kd.topology import GraphSequence
from flower_kd.wire import Coding


@STRATEGIES.register("neighbor-kd")
class NeighborKD(DistillationStrategy):
    """Distill on a reference set from a teacher made of the graph neighbors' logits.

    Each node minimizes `alpha * CE(labels) + (1 - alpha) * rho * D(student, teacher)`: the client loss of Molo,
    Vadicamo, Carlini, Gennaro and Connor (SISAP 2024), who have rho = 1 and T in {1, 10, 100}; here, teachers predict
    on the public reference set. Defaults are those of the run config.

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        Communication graph.
    dissimilarity : str
        Any of `flower_kd.dissimilarity.names()`, or `module:attribute`, with settings in parentheses if it has any.
    temperature : float
        Temperature of both softmaxes, above 0.
    alpha : float
        Weight of the label term, in [0, 1]; that of the distillation term is 1 - alpha.
    rho : float
        Factor of the distillation term, not negative; T^2 keeps gradients from shrinking with T (Hinton et al. 2015).
    pooling : str
        Any of `flower_kd.pooling.names()`, or `module:attribute`, with settings in parentheses if it has any. For one
        that takes class counts, such as "class-share", each node tells the server the histogram of its labels.
    pooling_weights : {"uniform", "mixing"}
        Equal weights, or those of the graph's mixing matrix; robust poolings support equal weights only.
    pooling_self : bool
        Whether a node is among its own teachers; with a robust pooling it always is.
    exchange_rows : int
        Reference rows per exchange; 0 for all.
    reference_batch : int
        Reference rows per SGD step; 0 for all rows of the teacher.
    wire : str
        Any of `flower_kd.wire.names()`, or `module:attribute`, with settings in parentheses if it has any.
    wire_coding : {"plain", "entropy", "delta"}
        How arrays in this format become bytes; see `flower_kd.wire.get`.
    wire_noise : str
        "none", or "gaussian(clip=..., multiplier=...)": what nodes add to their logits (`flower_kd.wire.noise`).
    kd_reduction : {"mean", "sum"}
        Of the distillation term over the rows of a step; "sum" as in the public code of Molo et al.
    logit_adjustment : float
        How far the logits that a node sends are corrected for the classes that it was trained on; 1 as if it had seen
        all equally often (Menon et al., ICLR 2021).
    record_gradients : bool
        Whether nodes report how large the gradients of both terms are at their logits.
    seed : int
        The run's seed.
    local_steps : int
        SGD steps per round; 25 if omitted.
    exchange_every : int
        SGD steps per exchange; must divide `local_steps`. 0, or omitted: once per round.
    evaluate_every : int
        Rounds between two evaluations; the last round is always evaluated. 1 if omitted.
    patience : int
        Evaluations without a lower validation loss after which a node stops. 0, or omitted: no node stops.
    participation, message_loss : float
        As in GraphStrategy.
    """

    def __init__(
        self,
        graph: nx.Graph | GraphSequence,
        *,
        dissimilarity: str = "kl",
        temperature: Positive = 2.0,
        alpha: Share = 0.5,
        rho: NonNegative = 4.0,
        pooling: str = "mean",
        pooling_weights: Literal["uniform", "mixing"] = "uniform",
        pooling_self: bool = False,
        exchange_rows: Whole = 0,
        reference_batch: Whole = 100,
        wire: str = "float32",
        wire_coding: Coding = "plain",
        wire_noise: str = "none",
        kd_reduction: Reduction = "mean",
        logit_adjustment: NonNegative = 0.0,
        record_gradients: bool = False,
        seed: Whole = 0,
        **schedule: Any,
    ) -> None:
        order = Order(
            server_round=0,
            num_steps=0,
            seed=seed,
            exchange_rows=exchange_rows,
            reference_batch=reference_batch,
            wire=wire,
            wire_coding=wire_coding,
            wire_noise=wire_noise,
            dissimilarity=dissimilarity,
            temperature=temperature,
            kd_reduction=kd_reduction,
            logit_adjustment=logit_adjustment,
            record_gradients=record_gradients,
            label_weight=alpha,
            kd_weight=(1 - alpha) * rho,
        )
        super().__init__(graph, order, **schedule)
        self.pooling = pooling
        self.pool = poolings.get(pooling)
        robust = isinstance(self.pool, RobustPooling)
        if robust and pooling_weights != "uniform":
            raise InputError(f"pooling = {pooling!r} gives each node one vote, so pooling_weights must be 'uniform'")
        self._weights_of = partial(
            teacher_weights,
            name=pooling_weights,
            with_self=pooling_self or robust,
            connected=not self.graphs.varies,
        )
        self.weights = self._weights_of(self.graphs.at(0))
        self._takes_class_counts = poolings.takes_class_counts(self.pool)
        self._hellos: dict[int, Hello] = {}
        self._class_counts: Tensor | None = None

    def network(self, grid: Grid) -> Network:
        """Return the grid as a Network that asks each node for its class counts if the pooling takes them."""
        network = super().network(grid)
        network.greeting = replace(network.greeting, class_counts=self._takes_class_counts)
        return network

    def try_parts(self, hellos: dict[int, Hello]) -> None:
        """Try the pooling."""
        counts = self._counts(hellos)
        poolings.check(self.pooling, self.weights, hellos[0].classes, self.order.temperature, counts)

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Keep also the class counts, if the pooling takes them."""
        super().begin(hellos)
        self._hellos = dict(hellos)
        self._class_counts = self._counts(hellos)

    def node_returned(self, vertex: int, hello: Hello) -> None:
        """Keep also the class counts of the node that returned: its data may have changed."""
        super().node_returned(vertex, hello)
        self._hellos[vertex] = hello
        self._class_counts = self._counts(self._hellos)

    def teach(self, rows: np.ndarray, logits: Tensor, present: np.ndarray) -> dict[int, Teacher]:
        """Pool the logits of each vertex's present neighbors whose messages arrived."""
        weights, all_arrive = self._weights_in(self._exchange)
        if not (all_arrive and present.all()):
            weights = normalized(weights @ diags_array(present.astype(float)))
        temperature = self.order.temperature
        sent = torch.from_numpy(present)
        teachers = poolings.pool(self.pooling, self.pool, logits, weights, temperature, self._class_counts, sent)
        return {vertex: teacher for vertex, teacher in enumerate(teachers) if teacher is not None}

    def _weights_in(self, exchange: int) -> tuple[csr_array, bool]:
        """Return the weights of teachers in an exchange, 0 for messages that do not arrive, and whether all arrive."""
        weights = self._weights_of(self.graphs.at(exchange)) if self.graphs.varies else self.weights
        received = self.contacts.received(exchange)
        return (weights, True) if received is None else (csr_array(weights.multiply(received)), False)

    def _counts(self, hellos: dict[int, Hello]) -> Tensor | None:
        return bounded_class_counts(hellos) if self._takes_class_counts else None


def teacher_weights(graph: nx.Graph, name: str, *, with_self: bool, connected: bool = True) -> csr_array:
    """Return the weights [nodes, nodes] that each node gives to its teachers; rows sum to 1, or are empty.

    Raises
    ------
    InputError
        If the name is neither "uniform" nor "mixing", or the graph has no mixing matrix: if it is not connected, but
        must be `connected`.
    """
    if name not in ("uniform", "mixing"):
        raise InputError(f"unknown pooling_weights {name!r} (allowed: uniform, mixing)")
    mixing = name == "mixing"
    matrix = topology.mixing_matrix(graph, connected=connected) if mixing else topology.uniform_matrix(graph)
    return normalized(matrix if with_self else matrix - diags_array(matrix.diagonal()))


def normalized(weights: csr_array) -> csr_array:
    """Return weights whose rows sum to 1, or are empty where they had no weight."""
    sums = np.asarray(weights.sum(axis=1)).ravel()
    scaled = csr_array(diags_array(np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)) @ weights)
    scaled.eliminate_zeros()
    return scaled
