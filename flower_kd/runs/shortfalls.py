"""Shortfalls of a run: missed exchanges, and nodes that diverged or were never evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan

from flower_kd.errors import InputError
from flower_kd.runs.results import MEANINGLESS_LOSS, RunRecord, Summary
from flower_kd.strategies.node_records import MAX_NAMED, Participation, missed_exchanges, most_frequent


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
    why = most_frequent(part.reasons for part in parts)
    if due and not taken:
        raise InputError(f"nothing was exchanged: none of the nodes' {due} replies could be used ({why})")
    last = record.last_round
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
    return [*missed_exchanges([Participation(**part) for part in summary.participation]), *_accuracy(summary)]


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
