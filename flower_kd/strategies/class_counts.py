"""The nodes' numbers of samples by class, as they say them in the handshake."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median_low

import torch
from torch import Tensor

from flower_kd.protocol import Hello
from flower_kd.strategies.fedavg import LARGEST_SHARE


def bounded_class_counts(hellos: Mapping[int, Hello]) -> Tensor:
    """Return the numbers of samples, [nodes, classes], that checked nodes report.

    A node that reports more samples than 3 times the median is scaled down to that, as in FedAvg: the numbers cannot be
    verified.
    """
    counts = torch.tensor([hellos[vertex].class_counts for vertex in sorted(hellos)], dtype=torch.float64)
    totals = counts.sum(dim=1, keepdim=True)
    most = LARGEST_SHARE * median_low(totals.flatten().tolist())
    return (counts * (most / totals).clamp_max(1.0)).float()
