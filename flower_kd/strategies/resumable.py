"""Strategies that can go on after a round of an earlier process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

State = dict[str, np.ndarray]


class Resumable:
    """What a strategy knows between two rounds, as arrays by name, and who is told when a round is over.

    Attributes
    ----------
    on_round : callable (int) or None
        Called with the number of each round that is over, evaluation included.
    last_round : int
        The last round of the earlier process; 0 in a run that begins.
    """

    on_round: Callable[[int], None] | None = None
    last_round: int = 0
    _resumed: State | None = None

    def state_dict(self) -> State:
        """Return what the strategy knows between two rounds, beside its settings."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take what `state_dict` returned, in a strategy that has begun."""

    def resume_after(self, server_round: int, state: State) -> None:
        """Have the next `start` go on after a round of an earlier process, whose state is given."""
        self.last_round, self._resumed = server_round, state

    def _restore(self) -> None:
        """Take the earlier process's state, if there is one; called when the strategy has begun."""
        if self._resumed is not None:
            self.load_state_dict(self._resumed)
            self._resumed = None

    def _finish_round(self, server_round: int) -> None:
        if self.on_round is not None:
            self.on_round(server_round)
