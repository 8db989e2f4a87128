"""Neighbors weighted by their confidence."""

from typing import Annotated, Any

import networkx as nx
import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from flower_kd import topology
from flower_kd.pooling import Teacher
from flower_kd.strategies import NeighborKD


class Confident(NeighborKD):
    """Weigh each neighbor on each row by its largest probability to the power `sharpness`."""

    def __init__(self, graph: nx.Graph, *, sharpness: Annotated[float, Ge(0)] = 1.0, **settings: Any) -> None:
        super().__init__(graph, **settings)
        self.sharpness = sharpness

    def teach(self, rows: np.ndarray, logits: Tensor, present: np.ndarray) -> dict[int, Teacher]:
        """Return the teachers of the nodes with a present neighbor."""
        labels = torch.softmax(logits / self.order.temperature, dim=-1)
        weights = labels.amax(-1, keepdim=True) ** self.sharpness
        teachers = {}
        for vertex in self.graph:
            near = [other for other in topology.neighbors(self.graph, vertex) if present[other]]
            if near:
                teachers[vertex] = Teacher((weights[near] * labels[near]).sum(0) / weights[near].sum(0))
        return teachers
