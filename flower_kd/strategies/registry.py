"""Strategies by name, built from settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, Self, cast

import networkx as nx
import numpy as np
from flwr.serverapp.strategy import Strategy

from flower_kd.errors import InputError
from flower_kd.registry import Registry, unknown

# The intended recipient of what a node sends, whatever its route.
Recipient = Literal["neighbors", "server", "none"]

STRATEGIES: Registry[type[Strategy]] = Registry("strategy")


def settings_of(cls: type[Strategy]) -> set[str]:
    """Return the names of a strategy's keyword arguments, including its bases' if it passes them on."""
    return {parameter.name for parameter in _parameters(cls) if parameter.kind is parameter.KEYWORD_ONLY}


class NamedArguments:
    """Base of strategies that check argument names before Python passes them up the class hierarchy."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Return a new strategy; raises InputError for an unknown argument."""
        allowed = [parameter.name for parameter in _parameters(cls)]
        for name in settings:
            if name not in allowed:
                raise InputError(unknown(f"argument of {cls.__name__}", name, allowed))
        return super().__new__(cls)


def _parameters(cls: type) -> list[inspect.Parameter]:
    """Return a constructor's named parameters, including its bases' if it passes them on."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        found |= {
            parameter.name: parameter
            for parameter in parameters
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.name not in found
        }
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return list(found.values())


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


def settings_ignored(cls: type[Strategy], settings: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the settings of a strategy without effect given the others, each with the condition."""
    ignored = getattr(cls, "ignored", None)
    return ignored(settings) if ignored is not None else {}
