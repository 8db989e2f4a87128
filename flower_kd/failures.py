"""What went wrong in somebody's code, in one sentence that travels."""

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

_OURS = Path(__file__).parent
_STDLIB = Path(sysconfig.get_path("stdlib"))
_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
# "<class 'OSError'>:<'disk full'>" on devices and in process; under Ray the class is Flower's own, with the text after
# "Message: ".
_REDUCED = re.compile(r"<class '(?:[\w.]*\.)?(\w+)'>:<'(.*?)(?:'>)?", re.DOTALL)
_UNDER_RAY = re.compile(r".*ClientAppException occurred\. Message: (.*?)(?:'>)?", re.DOTALL)


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn whatever a block raises into an InputError: engines hand on no more of an exception than its text."""
    try:
        yield
    except InputError:
        raise
    # A script that calls sys.exit must not end the engine, with all other nodes.
    except (Exception, SystemExit) as error:
        log(DEBUG, "%s", "".join(traceback.format_exception(error)))
        raise InputError(describe(error)) from error


def describe(error: BaseException) -> str:
    """Return an exception's type, its text and its place in the user's code, if it has one; of an InputError the text.

    The place is the innermost line outside of installed packages or, where all is installed, of Python, torch and this
    package.
    """
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    text = textwrap.shorten(said, LONGEST_TEXT, placeholder=" ...")
    if isinstance(error, InputError):
        return text
    place = _place(error)
    return f"{type(error).__name__}{f': {text}' if text else ''}{f' ({place})' if place else ''}"


def reason(reduced: str | None) -> str:
    """Return in one line why a message failed, from what Flower's engines make of an exception."""
    text = (reduced or "").strip()
    under_ray = _UNDER_RAY.fullmatch(text)
    if under_ray:
        return _line(under_ray[1])
    found = _REDUCED.fullmatch(text)
    if found:
        kind, words = found[1], _line(found[2])
        return words if kind == InputError.__name__ else f"{kind}: {words}"
    return _line(text.splitlines()[-1]) if text else "no reason given"


def _line(text: str) -> str:
    return " ".join(text.split()) or "no reason given"


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}"
    for is_library in (_is_library, _is_torch_or_ours):
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if not is_library(Path(frame.filename)):
                return f"{_short(frame.filename)}, line {frame.lineno}, in {frame.name}"
    return ""


def _is_library(file: Path) -> bool:
    """Return whether a file is part of Python, of an installed package, or of this one."""
    return any(file.is_relative_to(folder) for folder in (_OURS, *_INSTALLED)) or _is_torch_or_ours(file)


def _is_torch_or_ours(file: Path) -> bool:
    """Return whether a file is part of Python, torch or this package: so is not a user's app that is installed."""
    installed = next((folder for folder in _INSTALLED if file.is_relative_to(folder)), None)
    if installed is not None:
        return file.relative_to(installed).parts[0] in ("torch", _OURS.name)
    return str(file).startswith("<") or file.is_relative_to(_STDLIB) or file.is_relative_to(_OURS)


def _short(filename: str) -> str:
    """Return a file and its folder: what stands before them tells of the device, which is no concern of the server."""
    return "/".join(Path(filename).parts[-2:])
