"""Which node trains which model."""

from __future__ import annotations

from flower_kd.errors import InputError
from flower_kd.models.registry import check
from flower_kd.parts.text import split


def parse(spec: str) -> list[tuple[str, int | None]]:
    """Return the models in "lenet5*4,resnet8*4" with their counts, None where there is none.

    A model may have settings in parentheses: "resnet14(width=8)*2,lenet5*6".

    Raises
    ------
    InputError
        If a model is neither known nor "module:factory", its settings do not fit, a count is not a positive integer, or
        only some models have one.
    """
    parts: list[tuple[str, int | None]] = []
    try:
        listed = [split(part, "*") for part in split(spec)]
    except ValueError as problem:
        raise InputError(f"model = {spec!r} cannot be read: {problem}") from None
    for name, *counts in listed:
        check(name)
        count = "*".join(counts)
        if counts and not (count.isdecimal() and int(count) > 0):
            raise InputError(f"model = {spec!r}: {count!r} after '*' must be a whole number above 0")
        parts.append((name, int(count) if counts else None))
    if len({count is None for _, count in parts}) > 1:
        raise InputError(f"model = {spec!r}: either every name needs a count (name*count), or none may have one")
    return parts


def assign(spec: str, num_nodes: int) -> list[str]:
    """Return each vertex's model.

    Parameters
    ----------
    spec : str
        One name for all nodes; "lenet5*4,resnet8*4" in the order of vertices; "lenet5,resnet8" in turns.
    num_nodes : int
        Number of nodes.

    Raises
    ------
    InputError
        If the spec cannot be parsed, or its counts do not add up to the number of nodes.
    """
    parts = parse(spec)
    counted = [name for name, count in parts for _ in range(count or 0)]
    if not counted:
        return [parts[vertex % len(parts)][0] for vertex in range(num_nodes)]
    if len(counted) != num_nodes:
        raise InputError(f"model = {spec!r} is for {len(counted)} nodes, but there are {num_nodes}")
    return counted
