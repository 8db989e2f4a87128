"""Flower's log without color codes outside terminals."""

from __future__ import annotations

import os

from flwr.common.logger import FLOWER_LOGGER, ConsoleHandler


def only_on_terminals() -> None:
    """Let Flower color its log only on a terminal that supports colors, unless NO_COLOR is set."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for handler in FLOWER_LOGGER.handlers:
        if isinstance(handler, ConsoleHandler):
            handler.colored = wanted and handler.stream.isatty()
