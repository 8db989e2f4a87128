"""Flower's log without color codes where nobody sees colors."""

from __future__ import annotations

import os

from flwr.common.logger import FLOWER_LOGGER, ConsoleHandler


def only_on_terminals() -> None:
    """Have Flower color its lines only where they go to a terminal that shows colors and whose user wants them."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for handler in FLOWER_LOGGER.handlers:
        if isinstance(handler, ConsoleHandler):
            handler.colored = wanted and handler.stream.isatty()
