"""Poolings by name, and what flower-kd gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, cast

from scipy.sparse import csr_array
from torch import Tensor

from flower_kd.parts.registry import Registry
from flower_kd.teacher import Teacher


class Pooling(Protocol):
    """Makes one teacher per node, or None for a node without a teacher in this exchange.

    One with a further parameter `class_counts`, a Tensor [nodes, classes], is given each node's number of samples by
    class. All nodes then tell the server theirs in the handshake, which they do for no other pooling.

    One with a further parameter `present`, a Tensor of bool [nodes], is told which nodes sent logits, and may also read
    those that have no weight, such as a node's own.
    """

    def __call__(self, logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
        """Return the teachers, in the order of vertices.

        Parameters
        ----------
        logits : Tensor
            The logits the nodes sent, [nodes, rows, classes]; those of nodes with zero weight are never read, except
            where `present` says so.
        weights : csr_array
            [nodes, nodes]: row n holds the weights node n gives to its teachers; a row sums to 1 or is empty.
        temperature : float
            Temperature of the softmax.
        """


# Functions, or classes whose instances are called; with the exception of their settings, as in Pooling. One that has a
# parameter `class_counts` or `present` is also given that, by keyword.
POOLINGS: Registry[Callable[..., Any]] = Registry(
    "pooling", group="flower_kd.poolings", given=("logits", "weights", "temperature", "class_counts", "present")
)


def names() -> list[str]:
    """Return the names of the poolings."""
    return POOLINGS.names()


def get(name: str) -> Pooling:
    """Return a pooling.

    Parameters
    ----------
    name : str
        One of `names()` or `module:attribute`, with settings in parentheses if it has any: "trimmed-mean(share=0.3)".

    Raises
    ------
    InputError
        If the name or a setting cannot be used.
    """
    return cast(Pooling, POOLINGS.make(name))


def takes_class_counts(pooling: Callable[..., Any]) -> bool:
    """Return whether a pooling has a parameter `class_counts`, for which nodes must say how many samples they have."""
    return _takes(pooling, "class_counts")


def takes_present(pooling: Callable[..., Any]) -> bool:
    """Return whether a pooling has a parameter `present`, for which it is told which nodes sent logits."""
    return _takes(pooling, "present")


def _takes(pooling: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(pooling).parameters
    except (TypeError, ValueError):  # not callable, or without a signature: found when it is tried
        return False
