"""The run-config keys in words, for the command line and the documentation."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields
from typing import get_type_hints

from flower_kd.catalog import KINDS
from flower_kd.config import RunConfig
from flower_kd.parts.text import written
from flower_kd.parts.values import allowed

_PARAMETER = re.compile(r"^(\w+) : .*\n((?: +.*\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Key:
    """What a user needs to know of a key.

    Parameters
    ----------
    name : str
        As it is written in a run config, with hyphens.
    default : str
        As it is written in a run config.
    kind : str
        The kind of part that its value names; empty if it names none.
    allowed : str
        Its values in a few words: type and range.
    meaning : str
        What it sets.
    """

    name: str
    default: str
    kind: str
    allowed: str
    meaning: str


def keys() -> list[Key]:
    """Return all keys in the order of `RunConfig`, with the meanings in its docstring."""
    meanings = {name: " ".join(words.split()) for name, words in _PARAMETER.findall(f"{inspect.getdoc(RunConfig)}\n")}
    hints = get_type_hints(RunConfig, include_extras=True)
    return [
        Key(
            name=spec.name.replace("_", "-"),
            default=written(spec.default),
            kind=KINDS.get(spec.name, ""),
            allowed=allowed(hints[spec.name]),
            meaning=meanings.get(spec.name, ""),
        )
        for spec in fields(RunConfig)
    ]
