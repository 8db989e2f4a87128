"""Every node alone: the baseline without any exchange."""

from __future__ import annotations

import networkx as nx

from flower_kd.protocol import Order
from flower_kd.ranges import Count, PositiveShare, Whole
from flower_kd.strategies.base import GraphStrategy
from flower_kd.strategies.registry import STRATEGIES
from flower_kd.topology import GraphSequence


@STRATEGIES.register("silo")
class Silo(GraphStrategy):
    """Train each node on its own data; the messages carry orders and metrics only (Silo-SGD of Wang, Wang and Ma 2020).

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        Its edges are not used.
    seed : int
        The run's seed.
    local_steps : int
        SGD steps per round.
    evaluate_every : int
        Rounds between two evaluations; the last round is always evaluated.
    patience : int
        Evaluations without a lower validation loss after which a node stops; 0 for no stopping.
    participation : float
        Share of the nodes that train in a round, drawn anew for each.
    """

    sends_to = "none"

    def __init__(
        self,
        graph: nx.Graph | GraphSequence,
        *,
        seed: Whole = 0,
        local_steps: Count = 25,
        evaluate_every: Count = 1,
        patience: Whole = 0,
        participation: PositiveShare = 1.0,
    ) -> None:
        order = Order(server_round=0, num_steps=0, seed=seed, reply="nothing")
        super().__init__(
            graph,
            order,
            local_steps=local_steps,
            evaluate_every=evaluate_every,
            patience=patience,
            participation=participation,
        )
