"""How often something slow is repeated during a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 5.0
SHARE = 0.05  # of the batch's time


class Pacing:
    """Says when something is due again: after some seconds, and so that it takes a small share of the time."""

    def __init__(self) -> None:
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether it is due; it always is before the first time."""
        return time.monotonic() > self._next

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure a block that does it."""
        started = time.monotonic()
        yield
        now = time.monotonic()
        self._next = now + max(SECONDS, (now - started) / SHARE)
