"""Which nodes have stopped training, by their own validation losses; each phase of a run by itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flower_kd.strategies.resumable import State


class EarlyStopping:
    """Stops a node whose validation loss has not improved in a number of its evaluations.

    Parameters
    ----------
    num_nodes : int
        Number of nodes.
    patience : int
        Evaluations without an improvement; 0 stops no node.

    Attributes
    ----------
    stopped : ndarray of int
        [nodes], the round of this phase after which each node stopped; 0 for one that trains.
    stopped_before : ndarray of int
        [earlier phases, nodes], the same in those.
    """

    def __init__(self, num_nodes: int, patience: int) -> None:
        self.patience = patience
        self.stopped = np.zeros(num_nodes, dtype=np.int64)
        self.stopped_before = np.zeros((0, num_nodes), dtype=np.int64)
        self._lowest = np.full(num_nodes, np.inf)
        self._waited = np.zeros(num_nodes, dtype=np.int64)

    @property
    def everyone(self) -> bool:
        """Whether all nodes have stopped."""
        return bool(self.stopped.all())

    def observe(self, server_round: int, losses: Mapping[int, float]) -> list[int]:
        """Return the vertices that stop now, from the losses after a round; nodes without one wait for their next."""
        if not self.patience:
            return []
        before = self.stopped.copy()
        for vertex, loss in losses.items():
            improved = loss < self._lowest[vertex]
            self._lowest[vertex] = min(loss, self._lowest[vertex])
            self._waited[vertex] = 0 if improved else self._waited[vertex] + 1
            if self._waited[vertex] >= self.patience and not self.stopped[vertex]:
                self.stopped[vertex] = server_round
        return np.flatnonzero(self.stopped != before).tolist()

    def begin_phase(self) -> None:
        """Let all nodes train again, with no loss known."""
        self.stopped_before = np.vstack([self.stopped_before, self.stopped])
        for vertex in range(len(self.stopped)):
            self.forget(vertex)

    def forget(self, vertex: int) -> None:
        """Let a node train again that has lost its weights, and with them its best ones."""
        self.stopped[vertex], self._lowest[vertex], self._waited[vertex] = 0, np.inf, 0

    def state_dict(self) -> State:
        """Return what has been observed; nothing if no node can stop."""
        if not self.patience:
            return {}
        return {
            "stopped": self.stopped,
            "stopped-before": self.stopped_before,
            "lowest-losses": self._lowest,
            "waited": self._waited,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned, possibly among other arrays."""
        if self.patience:
            self.stopped, self.stopped_before = state["stopped"], state["stopped-before"]
            self._lowest, self._waited = state["lowest-losses"], state["waited"]
