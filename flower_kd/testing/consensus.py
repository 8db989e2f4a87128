"""Properties of every consensus."""

from __future__ import annotations

import networkx as nx
import torch

from flower_kd.errors import of_type
from flower_kd.pooling import mix
from flower_kd.strategies.consensus import CONSENSUS, ConsensusUpdate
from flower_kd.testing.attempts import attempt
from flower_kd.topology import Mixing

_ROWS, _CLASSES = 7, 4


def check_consensus(part: str | ConsensusUpdate) -> None:
    """Check an update rule of Distributed Distillation on a ring, a star and a complete graph.

    Parameters
    ----------
    part : str or callable
        As in a run config, or a ConsensusUpdate.

    Raises
    ------
    AssertionError
        If it fails, returns another shape or values that are not finite, changes its inputs, or leaves an agreement in
        which the consensus and the predictions of all nodes are equal.
    """
    graphs = {"a ring": nx.cycle_graph(6), "a star": nx.star_graph(5), "a complete graph": nx.complete_graph(5)}
    for name, graph in graphs.items():
        mixing = Mixing(graph)
        generator = torch.Generator().manual_seed(0)
        consensus, now, before = torch.randn(3, len(graph), _ROWS, _CLASSES, generator=generator).softmax(-1)
        agreed = now[:1].expand_as(now)
        for case, inputs in (
            (f"{name}, random predictions", (mix(mixing.matrix, consensus), consensus, now, before)),
            (f"{name}, agreement", (agreed, agreed, agreed, agreed)),
        ):
            given = [values.clone() for values in inputs]
            with attempt(case):
                rule = CONSENSUS.make(part, {"mixing": mixing}) if isinstance(part, str) else part
                moved = rule(*given)
            assert isinstance(moved, torch.Tensor), f"{case}: it returns {of_type(moved)}, not a Tensor"
            shapes = f"{list(moved.shape)}, not {list(consensus.shape)}"
            assert moved.shape == consensus.shape, f"{case}: it returns a consensus of shape {shapes}"
            assert moved.isfinite().all(), f"{case}: it returns values that are not finite"
            assert all(map(torch.equal, given, inputs)), f"{case}: it changes its inputs"
        assert torch.allclose(moved, agreed, atol=1e-5), f"{name}: nodes that agree do not stay where they are"
