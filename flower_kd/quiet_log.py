"""Flower's log without what a trial or a check of a part would write into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR

from flwr.common.logger import FLOWER_LOGGER


@contextmanager
def only_errors() -> Iterator[None]:
    """Let Flower's log show errors only, for a block."""
    level = FLOWER_LOGGER.level
    FLOWER_LOGGER.setLevel(max(level, ERROR))
    try:
        yield
    finally:
        FLOWER_LOGGER.setLevel(level)
