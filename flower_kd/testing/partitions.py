"""Properties of every partition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset

from flower_kd.data.partition import LABEL, PARTITIONS
from flower_kd.testing.attempts import attempt

_SAMPLES, _LABELS = 400, 10


def check_partition(part: str | Callable[..., Any]) -> None:
    """Check how a partition splits 400 samples of ten labels over 2, 5 and 8 nodes.

    Parameters
    ----------
    part : str or callable
        As in a run config, or the function (num_partitions, seed).

    Raises
    ------
    AssertionError
        If it fails, a node has no samples, a sample is given away twice, or the same seed gives another split.
    """
    for num_nodes in (2, 5, 8):
        case = f"{num_nodes} nodes"
        with attempt(case):
            split, again = _split(part, num_nodes), _split(part, num_nodes)
        for vertex, rows in enumerate(split):
            assert len(rows), f"{case}: node {vertex} has no samples"
        rows = np.concatenate(split)
        assert len(np.unique(rows)) == len(rows), f"{case}: a sample is given to several nodes, or twice to one"
        assert all(map(np.array_equal, split, again)), f"{case}: the same seed gave two splits"


def _split(part: str | Callable[..., Any], num_nodes: int) -> list[np.ndarray]:
    """Return the rows of each node."""
    partitioner = (PARTITIONS.bind(part) if isinstance(part, str) else part)(num_nodes, 1)
    labels = np.random.default_rng(0).permutation(np.arange(_SAMPLES) % _LABELS)
    partitioner.dataset = Dataset.from_dict({LABEL: labels, "row": np.arange(_SAMPLES)})
    return [np.asarray(partitioner.load_partition(vertex)["row"]) for vertex in range(num_nodes)]
