"""The grid of a sweep: which values of which keys, and every combination of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from flower_kd.config import PART_KEYS, RunConfig, unknown_key
from flower_kd.errors import InputError
from flower_kd.parts import moved
from flower_kd.parts import text as part_text
from flower_kd.parts.values import KINDS
from flower_kd.report.formats import as_text

Grid = dict[str, list[Any]]

# These are options of the command.
_NOT_SWEEPABLE = {
    "output-dir": "--output-dir",
    "overwrite": "--overwrite",
    "seed": "--seeds",
    "num-nodes": "--num-nodes",
}


def parse(texts: Sequence[str]) -> Grid:
    """Return the values of each key, in the key's type.

    Parameters
    ----------
    texts : sequence of str
        Each `key=value,value,...`; a value with a comma outside brackets needs quotes: 'lenet5,mlp'.

    Raises
    ------
    InputError
        If a text does not have that form, a key is unknown or repeated, or a value has the wrong type or is repeated.
    """
    types = {spec.name.replace("_", "-"): type(spec.default) for spec in fields(RunConfig)}
    allowed = [key for key in types if key not in _NOT_SWEEPABLE]
    grid: Grid = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        key = key.strip()
        if not equals:
            raise InputError(f"--grid {text!r} must have the form key=value,value,... such as temperature=1,10")
        if key in _NOT_SWEEPABLE:
            raise InputError(f"--grid {text!r}: {key} cannot be swept, use {_NOT_SWEEPABLE[key]}")
        if key in moved.HOMES:
            raise InputError(f"--grid {text!r}: {moved.in_grid(key, listed)}")
        if key not in allowed:
            raise InputError(f"--grid {text!r}: {unknown_key(key, {})}")
        if key in grid:
            raise InputError(f"--grid names {key} twice")
        try:
            values = [_unquoted(value) for value in part_text.split(listed)]
        except ValueError as problem:
            raise InputError(f"--grid {text!r} cannot be read: {problem}") from None
        grid[key] = [_as_written(key, _typed(key, value, types[key])) for value in values]
        twice = next((value for value in grid[key] if grid[key].count(value) > 1), None)
        if twice is not None:
            raise InputError(f"--grid {text!r} lists {as_text(twice)} twice")
    if not grid:
        raise InputError("a sweep needs a grid: --grid key=value,value,...")
    return grid


def combinations(grid: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return every combination of one value per key, by a label such as "dissimilarity=kl,temperature=10"."""
    choices = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return {",".join(f"{key}={_escaped(value)}" for key, value in choice.items()): choice for choice in choices}


def _as_written(key: str, value: Any) -> Any:
    """Return the text of a part as flower-kd writes it, so that one part has one label; other values as they are."""
    try:
        return str(part_text.parse(value, key)) if key in (*PART_KEYS, "topology") else value
    except InputError:  # a topology may be a file; wrong texts are reported with the configs
        return value


def _escaped(value: Any) -> str:
    # Labels must be unique: commas outside brackets separate the values in them.
    text = as_text(value).replace("%", "%25")
    try:
        return "%2C".join(part_text.split(text))
    except ValueError:
        return text.replace(",", "%2C")


def _unquoted(value: str) -> str:
    """Return a value without the quotes around all of it."""
    whole = len(value) > 1 and value[0] in "'\"" and value.find(value[0], 1) == len(value) - 1
    return value[1:-1].strip() if whole else value


def _typed(key: str, text: str, kind: type) -> Any:
    if kind is str and text:
        return text
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    raise InputError(f"--grid {key}: {text[:40]!r} must be {KINDS[kind]}")
