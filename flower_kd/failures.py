"""Exceptions in user code, described in one sentence that can be sent in a message."""

from __future__ import annotations

import re
import sysconfig
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from logging import DEBUG
from pathlib import Path

from flwr.common.logger import log

from flower_kd.errors import InputError

LONGEST_TEXT = 400  # torch lists every parameter of a model that does not fit

_PACKAGE = Path(__file__).parent
_STDLIB = Path(sysconfig.get_path("stdlib"))
_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
# "<class 'OSError'>:<'disk full'>" on devices and in process; under Ray the class is Flower's own, with the text after
# "Message: ".
_REDUCED = re.compile(r"<class '(?:[\w.]*\.)?(\w+)'>:<'(.*?)(?:'>)?", re.DOTALL)
_UNDER_RAY = re.compile(r".*ClientAppException occurred\. Message: (.*?)(?:'>)?", re.DOTALL)


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn any exception in a block into an InputError: engines pass on no more of an exception than its text."""
    try:
        yield
    except InputError:
        raise
    # A script that calls sys.exit must not end the engine, with all other nodes.
    except (Exception, SystemExit) as error:
        log(DEBUG, "%s", "".join(traceback.format_exception(error)))
        raise InputError(describe(error)) from error


@contextmanager
def named(what: str) -> Iterator[None]:
    """Turn any exception in a block into an InputError that says what fails, and where; InputErrors pass."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        log(DEBUG, "%s", "".join(traceback.format_exception(error)))
        raise InputError(f"{what} fails: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return an exception's type, text and, if known, place in the user's code; for an InputError, only its text.

    The place is the innermost line outside installed packages or, if everything is installed, outside Python, torch and
    this package.
    """
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    text = textwrap.shorten(message, LONGEST_TEXT, placeholder=" ...")
    if isinstance(error, InputError):
        return text
    place = _place(error)
    return f"{type(error).__name__}{f': {text}' if text else ''}{f' ({place})' if place else ''}"


def reason(reduced: str | None) -> str:
    """Return in one line why a message failed, from the reason in Flower's error reply."""
    text = (reduced or "").strip()
    under_ray = _UNDER_RAY.fullmatch(text)
    if under_ray:
        return _line(under_ray[1])
    found = _REDUCED.fullmatch(text)
    if found:
        kind, words = found[1], _line(found[2])
        return words if kind == InputError.__name__ else f"{kind}: {words}"
    return _line(text.splitlines()[-1]) if text else "no reason given"


def one_line(text: str | None) -> str:
    """Return a text from elsewhere as it can be shown in a warning: printable, on one line, truncated if long."""
    words = " ".join("".join(c if c.isprintable() else " " for c in (text or "")[: 4 * LONGEST_TEXT]).split())
    return words if len(words) <= LONGEST_TEXT else f"{words[: LONGEST_TEXT - 3]}..."


def _line(text: str) -> str:
    return " ".join(text.split()) or "no reason given"


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}"
    for is_library in (_is_library, _is_torch_or_package):
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if not is_library(Path(frame.filename)):
                return f"{_short(frame.filename)}, line {frame.lineno}, in {frame.name}"
    return ""


def _is_library(file: Path) -> bool:
    """Return whether a file is part of Python, of an installed package, or of this one."""
    return any(file.is_relative_to(folder) for folder in (_PACKAGE, *_INSTALLED)) or _is_torch_or_package(file)


def _is_torch_or_package(file: Path) -> bool:
    """Return whether a file is part of Python, torch or this package, in contrast to a user's installed app."""
    installed = next((folder for folder in _INSTALLED if file.is_relative_to(folder)), None)
    if installed is not None:
        return file.relative_to(installed).parts[0] in ("torch", _PACKAGE.name)
    return str(file).startswith("<") or file.is_relative_to(_STDLIB) or file.is_relative_to(_PACKAGE)


def _short(filename: str) -> str:
    """Return a file name with its folder; the rest of the path is private to the device."""
    return "/".join(Path(filename).parts[-2:])
