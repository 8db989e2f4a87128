"""One node of four on a ring lies in all that it sends: the effect on its two neighbors."""

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import FaultyGrid
from flwr.app import ArrayRecord, Message

from flower_kd import wire
from flower_kd.strategies import DSGD, DDist, NeighborKD, Silo

LIAR, ITS_NEIGHBORS = 0, [1, 3]
ROUNDS = 15
SCHEDULE = {"local_steps": 6, "evaluate_every": ROUNDS}


def sure_of_the_wrong_class(vertex: int, reply: Message) -> Message:
    if vertex == LIAR and "logits" in reply.content:
        wrong = (wire.decode(reply.content["logits"], (24, 3)).argmax(dim=-1) + 1) % 3
        reply.content["logits"] = wire.encode(20.0 * torch.nn.functional.one_hot(wrong, 3))
    return reply


def weights_negated_tenfold(vertex: int, reply: Message) -> Message:
    if vertex == LIAR and "arrays" in reply.content:
        weights = {name: -10 * array.numpy() for name, array in reply.content["arrays"].items()}
        reply.content["arrays"] = ArrayRecord({name: wire.as_array(values) for name, values in weights.items()})
    return reply


def accuracy(strategy, grid: FaultyGrid) -> float:
    """Return the mean over the liar's neighbors."""
    weights = {"weight": torch.zeros(3, 6), "bias": torch.zeros(3)} if strategy.same_model else {}
    result = strategy.start(grid, ArrayRecord(weights), num_rounds=ROUNDS)
    return float(np.mean([result.evaluate_metrics_clientapp[ROUNDS]["accuracy-per-node"][v] for v in ITS_NEIGHBORS]))


@pytest.mark.parametrize("pooling", ["median", "trimmed-mean", "geometric-median"])
def test_a_liar_that_misleads_the_mean_does_less_to_robust_pooling(pooling: str, ring: nx.Graph, grid) -> None:
    grid.interfere = sure_of_the_wrong_class
    alone = accuracy(Silo(ring, **SCHEDULE), grid)
    plain = accuracy(NeighborKD(ring, alpha=0.3, rho=4.0, **SCHEDULE), grid)
    robust = accuracy(NeighborKD(ring, alpha=0.3, rho=4.0, pooling=pooling, **SCHEDULE), grid)
    assert plain < alone - 0.1
    assert robust > plain + 0.1


def test_a_liar_that_misleads_d_dist_does_less_where_clipped(ring: nx.Graph, grid: FaultyGrid) -> None:
    grid.interfere = sure_of_the_wrong_class
    settings = {"rho": 5.0, "dissimilarity": "kl", "temperature": 1.0, **SCHEDULE}
    alone = accuracy(Silo(ring, **SCHEDULE), grid)
    plain, robust = (accuracy(DDist(ring, clip=clip, **settings), grid) for clip in (0.0, 0.05))
    assert plain < alone - 0.1
    assert robust > plain + 0.1


def test_a_liar_that_misleads_d_sgd_does_less_where_clipped(ring: nx.Graph, same_model_grid: FaultyGrid) -> None:
    same_model_grid.interfere = weights_negated_tenfold
    alone = accuracy(Silo(ring, **SCHEDULE), same_model_grid)
    plain, robust = (accuracy(DSGD(ring, clip=clip, **SCHEDULE), same_model_grid) for clip in (0.0, 0.1))
    assert plain < alone - 0.1
    assert robust > plain + 0.1
