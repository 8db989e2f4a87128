"""The table of run-config keys."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from flower_kd.keys import Key


def table(keys: Iterable[Key]) -> Table:
    """Return the keys with their defaults, their values and what they mean."""
    shown = Table()
    for column in ("key", "default", "allowed", "meaning"):
        shown.add_column(column, overflow="fold", no_wrap=column == "key")
    for key in keys:
        values = f"part: flower-kd parts {key.kind}" if key.kind else key.allowed
        shown.add_row(*map(Text, (key.name, key.default, values, key.meaning)))
    return shown
