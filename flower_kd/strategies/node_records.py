"""What is known of each node's part in a run: bytes, metrics, exchanges."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Traffic:
    """Bytes of serialized Flower messages, by vertex.

    Parameters
    ----------
    up, down : ndarray
        All that a node sent and received, including handshake, metrics and evaluation, [nodes].
    shared, messages : ndarray
        What a node sent for its neighbors (replies with arrays), in bytes and in messages, [nodes].
    """

    up: np.ndarray
    down: np.ndarray
    shared: np.ndarray
    messages: np.ndarray

    @classmethod
    def none(cls, num_nodes: int) -> Traffic:
        """Return zero bytes for each vertex."""
        return cls(*(np.zeros(num_nodes, dtype=np.int64) for _ in range(4)))


@dataclass
class NodeMetrics:
    """What one node reported in one round, by metric."""

    server_round: int
    vertex: int
    values: dict[str, float] = field(default_factory=dict)


@dataclass
class Participation:
    """How many train exchanges a node was due in and took part in, and why it missed the others.

    Parameters
    ----------
    due, taken : int
        Train messages sent to the node; those whose replies were used.
    reasons : dict
        How often the node was left out for each reason; the sum is `due - taken` after each exchange.
    """

    due: int = 0
    taken: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
