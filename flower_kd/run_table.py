"""The table of one run on the screen."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flower_kd.results import Summary

WIDTH = 100
MAX_ROWS = 64


def table(summary: Summary) -> RenderableType:
    """Return accuracy by node, of at most 64, next to the same node alone, and the bytes next to those of D-SGD."""
    title = f"{summary.strategy} on {summary.dataset}, {summary.topology} of {summary.num_nodes} nodes"
    rows = Table(title=Text(title, style="table.title"))
    columns: list[tuple[str, Callable[[int], str | Text]]] = [
        ("node", str),
        ("model", lambda vertex: Text(summary.models[vertex])),
        (summary.strategy, lambda vertex: _percent(summary.accuracy["per_node"][vertex])),
    ]
    if summary.baseline:
        alone = summary.baseline
        columns.append(("alone", lambda vertex: _percent(alone["per_node"][vertex])))
    for name, _ in columns:
        rows.add_column(name, justify="left" if name == "model" else "right")
    for vertex in range(min(summary.num_nodes, MAX_ROWS)):
        rows.add_row(*(cell(vertex) for _, cell in columns))
    if summary.num_nodes > MAX_ROWS:
        rows.add_row("...", f"{summary.num_nodes - MAX_ROWS:,} more")
    rows.add_section()
    for label, key in (("mean", "mean"), ("spread", "std")):
        row = [label, "", _percent(summary.accuracy[key])]
        rows.add_row(*row, *([_percent(summary.baseline[key])] if summary.baseline else []))
    sent, d_sgd = summary.bytes["per_edge"], summary.bytes["d_sgd_per_edge"]
    ratio = f", {d_sgd / sent:,.0f} times as much" if sent else ""
    return Group(
        rows,
        f"sent over one edge in one direction: {_megabytes(sent)}; D-SGD, an exchange a step, would have sent "
        f"{_megabytes(d_sgd)}{ratio}; all messages both ways: {_megabytes(summary.bytes['total'])}",
        f"{summary.seconds['total']:.1f} s, {summary.seconds['per_round']:.3f} s a round",
    )


def text(summary: Summary) -> str:
    """Return the table as plain text."""
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table(summary))
    return capture.get()


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"
