"""What is known of each node's part in a run: bytes, metrics, exchanges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

MAX_NAMED = 8

TEST, VALIDATION = "test-", "validation-"  # how the names of metrics of an evaluation begin


@dataclass
class Traffic:
    """Bytes of serialized Flower messages, by vertex.

    Parameters
    ----------
    up, down : ndarray
        All that a node sent and received, including handshake, metrics and evaluation, [nodes].
    shared, messages : ndarray
        What a node sent for its neighbors (replies with arrays), in bytes and in messages, [nodes].
    over_links, messages_over_links : ndarray
        The same, once for each link over which it would be sent if neighbors were linked directly, [nodes].
    """

    up: np.ndarray
    down: np.ndarray
    shared: np.ndarray
    messages: np.ndarray
    over_links: np.ndarray
    messages_over_links: np.ndarray

    @classmethod
    def none(cls, num_nodes: int) -> Traffic:
        """Return zero bytes for each vertex."""
        return cls(*(np.zeros(num_nodes, dtype=np.int64) for _ in fields(cls)))


@dataclass
class NodeMetrics:
    """What one node reported in one round, by metric."""

    server_round: int
    vertex: int
    values: dict[str, float] = field(default_factory=dict)


def named(metrics: Mapping[str, float], *, evaluation: bool) -> dict[str, float]:
    """Return what a node reported by the names in the history, which tell training, test and validation apart."""
    return {
        f"{TEST}{name}" if evaluation and not name.startswith(VALIDATION) else name: value
        for name, value in metrics.items()
    }


@dataclass
class Participation:
    """How many train exchanges a node was due in and took part in, and why it missed the others.

    Parameters
    ----------
    due, taken : int
        Train messages sent to the node; those whose replies were used.
    reasons : dict
        How often the node was left out for each reason; the sum is `due - taken` after each exchange.
    """

    due: int = 0
    taken: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def missed_exchanges(parts: Sequence[Participation]) -> Iterator[str]:
    """Yield a sentence per node that missed exchanges, by vertex; those after `MAX_NAMED` share one."""
    short = [vertex for vertex, part in enumerate(parts) if part.taken < part.due]
    for vertex in short[:MAX_NAMED]:
        part = parts[vertex]
        yield f"node {vertex} missed {part.due - part.taken} of {part.due} exchanges: {most_frequent([part.reasons])}"
    if len(short) > MAX_NAMED:
        others = [parts[vertex] for vertex in short[MAX_NAMED:]]
        missing = sum(part.due - part.taken for part in others)
        words = most_frequent(part.reasons for part in others)
        yield f"{len(others):,} more nodes missed {missing:,} exchanges: {words}"


def most_frequent(counts: Iterable[Mapping[str, int]]) -> str:
    """Return the most frequent reasons with their counts."""
    total: Counter[str] = Counter()
    for reasons in counts:
        total.update(reasons)
    shown = [f"{reason} ({times:,} time{'s' if times > 1 else ''})" for reason, times in total.most_common(3)]
    return "; ".join([*shown, "..."] if len(total) > len(shown) else shown)
