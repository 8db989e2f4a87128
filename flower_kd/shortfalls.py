"""Shortfalls of a run: missed exchanges, and nodes that diverged or were never evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan

from flower_kd.errors import InputError
from flower_kd.results import MEANINGLESS_LOSS, RunRecord, Summary

MAX_NAMED = 8


def check(record: RunRecord) -> None:
    """Refuse a run whose figures would be meaningless.

    Raises
    ------
    InputError
        If no reply could be used, no node trained in the last round, or every node diverged or could not be
        evaluated at the end.
    """
    parts = record.participation.values()
    due, taken = sum(part.due for part in parts), sum(part.taken for part in parts)
    why = _reasons(part.reasons for part in parts)
    if due and not taken:
        raise InputError(f"nothing was exchanged: none of the nodes' {due} replies could be used ({why})")
    last = record.config.num_server_rounds
    if due and not any("num-examples" in record.metrics[key].values for key in record.metrics if key[0] == last):
        raise InputError(f"no node trained in round {last}, the last: {why}")
    accuracies, diverged = record.final("test-accuracy"), record.diverged
    if all(isnan(accuracy) or vertex in diverged for vertex, accuracy in enumerate(accuracies)):
        if diverged:
            raise InputError(
                f"every node diverged: test losses are above {MEANINGLESS_LOSS:g} nats or not finite "
                "(lower learning-rate?)"
            )
        raise InputError(f"no node could be evaluated at the end{f': {why}' if why else ''}")


def missed(summary: Summary) -> tuple[int, int]:
    """Return the number of missed exchanges, and of those that were due."""
    due = sum(part["due"] for part in summary.participation)
    return due - sum(part["taken"] for part in summary.participation), due


def remarks(summary: Summary) -> list[str]:
    """Return one sentence for each problem that readers of the figures must know; empty if there are none."""
    return [*_participation(summary.participation), *_accuracy(summary)]


def _participation(parts: Sequence[Mapping]) -> Iterator[str]:
    short = [vertex for vertex, part in enumerate(parts) if part["taken"] < part["due"]]
    for vertex in short[:MAX_NAMED]:
        part = parts[vertex]
        missing = part["due"] - part["taken"]
        yield f"node {vertex} missed {missing} of {part['due']} exchanges: {_reasons([part['reasons']])}"
    if len(short) > MAX_NAMED:
        others = short[MAX_NAMED:]
        missing = sum(parts[vertex]["due"] - parts[vertex]["taken"] for vertex in others)
        words = _reasons(parts[vertex]["reasons"] for vertex in others)
        yield f"{len(others):,} more nodes missed {missing:,} exchanges: {words}"


def _accuracy(summary: Summary) -> Iterator[str]:
    if summary.diverged:
        yield (
            f"{_nodes(summary.diverged)} diverged: the test loss is above {MEANINGLESS_LOSS:g} nats, the accuracy "
            "is meaningless (lower learning-rate?)"
        )
    without = [vertex for vertex, accuracy in enumerate(summary.accuracy["per_node"]) if accuracy is None]
    if without:
        yield f"{_nodes(without)} could not be evaluated at the end: means are over the others"


def _nodes(vertices: Sequence[int]) -> str:
    named = ", ".join(map(str, vertices[:MAX_NAMED]))
    more = f" and {len(vertices) - MAX_NAMED:,} more" if len(vertices) > MAX_NAMED else ""
    return f"node{'s' if len(vertices) > 1 else ''} {named}{more}"


def _reasons(counts: Iterable[Mapping[str, int]]) -> str:
    """Return the most frequent reasons with their counts."""
    total: Counter[str] = Counter()
    for reasons in counts:
        total.update(reasons)
    shown = [f"{reason} ({times:,} time{'s' if times > 1 else ''})" for reason, times in total.most_common(3)]
    return "; ".join([*shown, "..."] if len(total) > len(shown) else shown)
