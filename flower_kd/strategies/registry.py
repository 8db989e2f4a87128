"""Strategies by name, built from settings."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import networkx as nx
import numpy as np
from flwr.serverapp.strategy import Strategy

from flower_kd.errors import InputError, unknown
from flower_kd.parts import moved, signatures
from flower_kd.parts.registry import Registry
from flower_kd.parts.values import checked
from flower_kd.strategies.resumable import Resumable

# The intended recipient of what a node sends, whatever its route.
Recipient = Literal["neighbors", "server", "none"]


def _problem(part: Any) -> str:
    """Return what keeps a part from outside from being a strategy; empty if nothing does."""
    if isinstance(part, type) and issubclass(part, Strategy) and issubclass(part, Resumable):
        return ""
    return "is not a subclass of flower_kd.strategies.GraphStrategy"


# Their keyword arguments are their own settings, and the run-config keys that they share with others.
STRATEGIES: Registry[type[Strategy]] = Registry(
    "strategy", group="flower_kd.strategies", given=("graph",), problem=_problem
)


class NamedArguments:
    """Base of strategies whose arguments are checked before Python passes them up the class hierarchy."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Return a new strategy; raises InputError for an unknown argument, or one of another type or range."""
        known = signatures.parameters_of(cls)
        for name, value in settings.items():
            if name not in known:
                raise InputError(moved.argument(name, value) or unknown(f"argument of {cls.__name__}", name, known))
            if known[name].annotation is str and not isinstance(value, str | float | int | None):
                raise InputError(f"{name} = {value!r} must be a string: a name or 'module:attribute'")
            if known[name].keyword_only:
                checked(name, value, known[name].annotation)
        return super().__new__(cls)


def sends_to(cls: type[Strategy]) -> Recipient:
    """Return the recipient of what a strategy's nodes send: the server, unless the strategy says otherwise."""
    return cast(Recipient, getattr(cls, "sends_to", "server"))


def links(cls: type[Strategy], graph: nx.Graph) -> np.ndarray:
    """Return the number of links over which each vertex sends, if neighbors are linked directly, [nodes].

    In a directed graph these are its outgoing edges; with a server there is one link, alone none.
    """
    num_nodes, recipient = graph.number_of_nodes(), sends_to(cls)
    if recipient != "neighbors":
        return np.full(num_nodes, int(recipient == "server"))
    degrees = graph.out_degree if graph.is_directed() else graph.degree
    return np.array([degrees[vertex] for vertex in range(num_nodes)])
