"""Where commands print."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 120


def console() -> Console:
    """Return the console; a file or a pipe is as wide as the tables need."""
    found = Console()
    return found if found.is_terminal else Console(width=PIPE_WIDTH)
