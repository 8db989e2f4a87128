"""The table of one run for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from flower_kd.errors import InputError
from flower_kd.runs import shortfalls
from flower_kd.runs.results import Summary
from flower_kd.strategies import STRATEGIES, sends_to

WIDTH = 100
MAX_ROWS = 64


def table(summary: Summary) -> RenderableType:
    """Return accuracy by node (at most 64), next to head 1 and the same node alone, and the bytes next to D-SGD's.

    Missed exchanges and diverged nodes are noted.
    """
    title = f"{summary.strategy} on {summary.dataset}, {summary.topology} of {summary.num_nodes} nodes"
    rows = Table(title=Text(title, style="table.title"))
    columns: list[tuple[str, Callable[[int], str | Text]]] = [
        ("node", str),
        ("model", lambda vertex: Text(summary.models[vertex])),
        *([("parameters kept", kept.__getitem__)] if (kept := summary.kept()) else []),
        (summary.strategy, lambda vertex: _percent(summary.accuracy["per_node"][vertex])),
    ]
    if summary.head_1:
        first = summary.head_1
        columns.append(("head 1", lambda vertex: _percent(first["per_node"][vertex])))
    if summary.baseline:
        alone = summary.baseline
        columns.append(("alone", lambda vertex: _percent(alone["per_node"][vertex])))
    if shortfalls.missed(summary)[0]:
        parts = summary.participation
        columns.append(("exchanges", lambda vertex: f"{parts[vertex]['taken']} of {parts[vertex]['due']}"))
    if summary.head_1 and any(before := summary.head_1.get("stopped", [])):
        columns.append(("head 1 stopped", lambda vertex: _round(before[vertex])))
    if any(summary.stopped):
        columns.append(("stopped after", lambda vertex: _round(summary.stopped[vertex])))
    for name, _ in columns:
        rows.add_column(name, justify="left" if name == "model" else "right")
    for vertex in range(min(summary.num_nodes, MAX_ROWS)):
        rows.add_row(*(cell(vertex) for _, cell in columns))
    if summary.num_nodes > MAX_ROWS:
        rows.add_row("...", f"{summary.num_nodes - MAX_ROWS:,} more")
    rows.add_section()
    for label, key in (("mean", "mean"), ("spread", "std")):
        found = [accuracy for accuracy in (summary.accuracy, summary.head_1, summary.baseline) if accuracy]
        rows.add_row(label, "", *([""] if kept else []), *(_percent(accuracy[key]) for accuracy in found))
    lines = [
        *_stored(summary),
        *_traffic(summary),
        *_privacy(summary),
        f"{summary.seconds['total']:.1f} s, {summary.seconds['per_round']:.3f} s per round",
    ]
    noted = [Text(f"note: {remark}", style="yellow") for remark in shortfalls.remarks(summary)]
    return Group(rows, *noted, *lines)


def _stored(summary: Summary) -> Iterator[str]:
    """Yield what the models take, if some are pruned."""
    for network in summary.networks if summary.kept() else []:
        stored, sent = (_size(network[name]) for name in ("stored_bytes", "weights_bytes"))
        yield f"{network['model']}: {stored} in a file, {sent} in a message of weights"


def _traffic(summary: Summary) -> Iterator[str]:
    """Yield what was sent, and what D-SGD would have sent."""
    sent, both_ways = summary.bytes, f"all messages both ways: {_size(summary.bytes['total'])}"
    d_sgd = f"D-SGD would have sent {_size(sent['d_sgd_per_message'])} per message"
    every_step = f"with one exchange per step: {_size(sent['d_sgd_per_edge'])}"
    if not sent["per_edge"]:
        yield f"nothing is sent to others; {d_sgd}, over one edge {every_step}; {both_ways}"
        return
    to_server = _sends_to_server(summary.strategy)
    where = "to the server" if to_server else "over one edge in one direction"
    count = sent["messages_per_edge"]
    messages = f"{count:,.4g} message{'' if count == 1 else 's'} of {_size(sent['per_message'])}"
    yield f"sent {where}: {messages}, {_size(sent['per_edge'])} in total"
    same, every = (summary.d_sgd_ratio(name) for name in ("d_sgd_same_frequency_per_edge", "d_sgd_per_edge"))
    yield f"{d_sgd}: {same:,.1f} times as much at the same frequency, {every:,.1f} times {every_step}"
    if to_server:
        yield both_ways
    else:
        yield f"sent by a node over all its edges, if neighbors are linked directly: {_size(sent['per_node'])}"
        yield f"{both_ways}, through the server"


def _privacy(summary: Summary) -> Iterator[str]:
    """Yield the privacy loss, if logits had noise."""
    if summary.privacy is None:
        return
    loss, seeded = summary.privacy, len(summary.privacy["seeded_nodes"])
    count = loss["messages"]
    messages = f"{count:,} message{'' if count == 1 else 's'}"
    simulated = f"; noise from the seed on {seeded:,} of {summary.num_nodes:,} nodes, which protects nothing"
    yield (
        f"wire-noise: epsilon {loss['epsilon']:.4g} at delta {loss['delta']:g} for all data of a node, {messages} of "
        f"logits{simulated if seeded else ''}"
    )


def _sends_to_server(strategy: str) -> bool:
    try:
        return sends_to(STRATEGIES.get(strategy)) == "server"
    except InputError:  # the user's module is no longer here; strategies from outside are those on a graph
        return False


def text(summary: Summary) -> str:
    """Return the table as plain text."""
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table(summary))
    return capture.get()


def _round(number: int | None) -> str:
    return "-" if number is None else f"round {number}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _size(count: float) -> str:
    return decimal(round(count))
