"""A table of named parts: dissimilarities, topologies, models, poolings, strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from flower_kd.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind by name, in the order in which they were registered.

    Parameters
    ----------
    kind : str
        The kind of part, as it appears in error messages ("topology").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under `name`; raises ValueError if the name is taken."""
        if name in self._parts:
            raise ValueError(f"{self.kind} {name!r} is registered already")

        def add_part(part: T) -> T:
            self._parts[name] = part
            return part

        return add_part

    def names(self) -> list[str]:
        """Return the registered names."""
        return list(self._parts)

    def get(self, name: str) -> T:
        """Return the part called `name`; raises InputError with the allowed names."""
        if name not in self._parts:
            raise InputError(unknown(self.kind, name, self.names()))
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)


def unknown(kind: str, name: object, allowed: list[str]) -> str:
    """Return the sentence that `name` is not one of `allowed`, with the closest match if there is one."""
    near = get_close_matches(str(name), allowed, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint or ''} (allowed: {', '.join(allowed)})"
