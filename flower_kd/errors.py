"""The exception for mistakes that a user can correct, and the sentence about an unknown name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad config, file, graph, data or message: one sentence that names the culprit and the allowed values.

    The apps and the command line show it without a traceback.
    """


class RunRefusedError(InputError):
    """An InputError that leaves an app, without the traceback that Flower would log."""

    @property
    def __traceback__(self) -> None:
        """No frames: the sentence is for the user, and Flower logs an app's exceptions with their frames."""
        return

    @__traceback__.setter
    def __traceback__(self, frames: object) -> None:
        """Ignore frames (context managers set them)."""


def unknown(kind: str, name: object, allowed: Iterable[str], meant: str = "") -> str:
    """Return the sentence that `name` is not one of `allowed`, with what was meant, by default the closest match."""
    names = list(allowed)
    hint = f", did you mean {meant!r}?" if meant else near(name, names)
    return f"unknown {kind} {name!r}{hint} (allowed: {', '.join(names)})"


def of_type(value: object) -> str:
    """Return a value's type with its article: "a list", "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def near(name: object, allowed: Iterable[str]) -> str:
    """Return the question whether the closest match was meant; empty if none is close."""
    found = get_close_matches(str(name), list(allowed), n=1)
    return f", did you mean {found[0]!r}?" if found else ""
