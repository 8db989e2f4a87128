"""A ring with chords."""

from typing import Annotated

import networkx as nx
import numpy as np
from annotated_types import Ge


def chords(num_nodes: int, rng: np.random.Generator, *, step: Annotated[int, Ge(2)] = 2) -> nx.Graph:
    """Return a ring in which each node is also linked to the one `step` hops ahead."""
    return nx.circulant_graph(num_nodes, [1, step % num_nodes or 1])
