"""What a node remembers between messages beside its weights: arrays by kind and name, each kind for one purpose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flower_kd.clients.node import Node


def remembered(node: Node, kind: str) -> dict[str, np.ndarray]:
    """Return the arrays of a kind by name, not to be changed in place; empty if there are none."""
    prefix = _prefix(kind)
    return {name.removeprefix(prefix): array for name, array in node.memory.items() if name.startswith(prefix)}


def remember(node: Node, kind: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace the arrays of a kind, and no others; empty to forget them.

    The dict is replaced rather than changed, so that one that was kept before can be put back after an error.
    """
    prefix = _prefix(kind)
    others = {name: array for name, array in node.memory.items() if not name.startswith(prefix)}
    node.memory = others | {f"{prefix}{name}": array for name, array in arrays.items()}


def _prefix(kind: str) -> str:
    return f"{kind}."
