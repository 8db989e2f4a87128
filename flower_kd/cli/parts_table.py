"""The table of all parts of one kind."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from rich.table import Table
from rich.text import Text

from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.parts.description import described
from flower_kd.parts.registry import Registry, Source, first_line


def table(kind: str, registry: Registry[Any]) -> Table:
    """Return the parts of a kind; one that cannot be imported is listed with the reason."""
    shown = Table(
        title=Text(kind, style="table.title"),
        title_justify="left",
        caption=Text(registry.common_words, style="table.caption") if registry.common_words else None,
        caption_justify="left",
    )
    for column in ("name", "source", "settings", "what it is"):
        shown.add_column(column, overflow="fold")
    keys = set() if registry.foreign else {spec.name for spec in fields(RunConfig)}
    hidden = [
        (name, f"{point.dist.name} {point.dist.version}")
        for name, points in registry.installed().items()
        if name in registry.own_names()
        for point in points
        if point.dist is not None
    ]
    for name in registry.names():
        try:
            source = str(registry.source(name))
            found = described(registry.settings(name), keys)
            settings = "\n".join(f"{setting} ({values})" for setting, values in found)
            words = first_line(registry.get(name))
        except InputError as error:
            source, settings, words = _sources(registry, name), "", str(error)
        shown.add_row(*map(Text, (name, source, settings, words)))
    for name, source in hidden:
        shown.add_row(*map(Text, (name, source, "", "hidden by flower-kd's own")))
    return shown


def _sources(registry: Registry[Any], name: str) -> str:
    points = registry.installed().get(name, [])
    return ", ".join(f"{point.dist.name} {point.dist.version}" for point in points if point.dist) or str(Source())
