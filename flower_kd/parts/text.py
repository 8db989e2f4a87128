"""The text that names a part: `name`, `module:attribute`, each with `(key=value, ...)`.

Values are plain Python literals: numbers, strings, booleans (also true and false), None, lists and tuples. Words
without quotes are strings, except for inf and nan, which are numbers.

>>> parse("regular(degree=4)")
PartText(name='regular', arguments={'degree': 4})
>>> str(PartText("my.parts:Renyi", {"order": 0.5, "base": "two"}))
'my.parts:Renyi(order=0.5, base=two)'
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flower_kd.errors import InputError

LONGEST = 2000  # characters; a run config is no place for data
DEEPEST = 16

_NAME = re.compile(r"\w[\w.+-]*(:\w[\w.]*)?")
_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_WORD = re.compile(r"[^\W\d][\w.:/-]*")
_HYPHENATED = re.compile(r"[^\W\d]\w*(-\w+)+")
_CONSTANTS: dict[str, Any] = {
    "true": True,
    "false": False,
    "True": True,
    "False": False,
    "None": None,
    "inf": math.inf,
    "nan": math.nan,
}
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class PartText:
    """A part's name and the arguments in parentheses.

    Parameters
    ----------
    name : str
        A name, or `module:attribute`.
    arguments : mapping
        Plain values by keyword.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return a text that parses to the same part."""
        listed = ", ".join(f"{key}={written(value)}" for key, value in self.arguments.items())
        return f"{self.name}({listed})" if listed else self.name


def parse(text: str, kind: str = "part") -> PartText:
    """Return the name and the arguments in a text.

    Parameters
    ----------
    text : str
        Such as "regular(degree=4)".
    kind : str
        The kind of part, for errors.

    Raises
    ------
    InputError
        If the text has another form.
    """
    if not isinstance(text, str):
        raise InputError(f"{kind} = {text!r} must be a string: a name or 'module:attribute'")
    if "," in text and len(text) <= LONGEST and len(_listed(text)) > 1:
        raise InputError(
            f"{kind} {text!r} lists several parts, but can name only one: combine them in a function or class of your "
            "own, 'module:attribute'"
        )
    name, arguments = text.strip(), ""
    opened = name.find("(")
    if opened >= 0:
        if not name.endswith(")"):
            raise _unreadable(kind, text, "its parentheses are not closed, or something follows them", name[:opened])
        name, arguments = name[:opened].strip(), name[opened + 1 : -1]
    if len(text) > LONGEST:
        raise InputError(f"{kind} {text[:40]!r}... has more than {LONGEST} characters")
    if not _NAME.fullmatch(name):
        raise _unreadable(kind, text, f"{name!r} is neither a name nor module:attribute", "")
    try:
        return PartText(name, _arguments(arguments))
    except ValueError as problem:
        raise _unreadable(kind, text, str(problem), name) from None


def is_own(name: str) -> bool:
    """Return whether a name has the form `module:attribute`."""
    return _OWN.fullmatch(name) is not None


def split(text: str, separator: str = ",") -> list[str]:
    """Return the pieces of a text between separators outside brackets and quotes, without surrounding spaces.

    Raises
    ------
    ValueError
        If brackets or quotes do not match.

    Examples
    --------
    >>> split("ring, regular(degree=4),'a,b'")
    ['ring', 'regular(degree=4)', "'a,b'"]
    """
    pieces, start, quote, open_brackets = [], 0, "", []
    escaped = False
    for place, character in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
            if len(open_brackets) > DEEPEST:
                raise ValueError(f"more than {DEEPEST} nested brackets")
        elif character in _CLOSING.values():
            if not open_brackets or open_brackets.pop() != character:
                raise ValueError(f"a {character} too many")
        elif character == separator and not open_brackets:
            pieces.append(text[start:place].strip())
            start = place + 1
    if quote or open_brackets:
        raise ValueError(f"a {quote or open_brackets[-1]} is missing")
    return [*pieces, text[start:].strip()]


def _arguments(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pieces = split(text)
    if not pieces[-1]:  # as in Python, a comma may follow the last one
        pieces.pop()
    for piece in pieces:
        key, equals, value = (word.strip() for word in piece.partition("="))
        if equals and _HYPHENATED.fullmatch(key):
            underscored = key.replace("-", "_")
            raise ValueError(f"settings in parentheses are written with underscores, {underscored} and not {key}")
        if not (equals and key.isidentifier()):
            raise ValueError(f"{piece!r} is not of the form key=value")
        if key in found:
            raise ValueError(f"{key} is given twice")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[:1] in ("-", "+") and text[1:].strip() in ("inf", "nan"):
        return float(text.replace(" ", ""))
    if _WORD.fullmatch(text):
        return text
    if text[:1] in ("[", "(") and text[-1:] == _CLOSING[text[:1]]:
        inside = split(text[1:-1])
        single = len(inside) == 1
        if not inside[-1]:
            inside.pop()
        values = [_value(each) for each in inside]
        if text[0] == "(":
            return values[0] if single and values else tuple(values)
        return values
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = b""
    if type(value) not in (int, float, str):
        raise ValueError(
            f"{text!r} is not a number, a word of letters and digits, a string in quotes, true, false, None, or a list "
            "of these"
        )
    return value


def written(value: Any) -> str:
    """Return a value as it is written in parentheses."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and value not in _CONSTANTS else repr(value)
    if isinstance(value, list | tuple):
        listed = ", ".join(written(each) for each in value)
        if isinstance(value, list):
            return f"[{listed}]"
        return f"({listed},)" if len(value) == 1 else f"({listed})"
    return repr(value)


def _listed(text: str) -> list[str]:
    """Return the names in a text that lists several; none if it is something else."""
    try:
        pieces = split(text)
    except ValueError:
        return []
    return pieces if all(_NAME.fullmatch(piece.partition("(")[0].strip()) for piece in pieces) else []


def _unreadable(kind: str, text: str, problem: str, name: str) -> InputError:
    shown = text if len(text) <= 120 else f"{text[:117]}..."
    example = name.strip() if _NAME.fullmatch(name.strip()) else "name"
    return InputError(f"{kind} {shown!r} cannot be read: {problem} (such as {example}(key=1, other=word))")
