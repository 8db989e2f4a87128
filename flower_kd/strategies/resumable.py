"""Strategies that can be resumed after a round of an earlier process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

State = dict[str, np.ndarray]
"""The state of a strategy between two rounds: arrays by name."""


class Resumable:
    """State of a strategy between two rounds, as arrays by name, and a callback at the end of each round.

    Attributes
    ----------
    on_round : callable (int) or None
        Called with the number of each finished round, after its evaluation.
    last_round : int
        The last round of the earlier process; 0 in a new run.
    """

    on_round: Callable[[int], None] | None = None
    last_round: int = 0
    _resumed: State | None = None

    def state_dict(self) -> State:
        """Return the strategy's state between two rounds, without its settings."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned, in a strategy that has begun."""

    def resume_after(self, server_round: int, state: State) -> None:
        """Have the next `start` resume after a round of an earlier process with the given state."""
        self.last_round, self._resumed = server_round, state

    def _restore(self) -> None:
        """Restore the earlier process's state, if there is one; called when the strategy has begun."""
        if self._resumed is not None:
            self.load_state_dict(self._resumed)
            self._resumed = None

    def _finish_round(self, server_round: int) -> None:
        if self.on_round is not None:
            self.on_round(server_round)
