"""Errors while reading a results file, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flower_kd.errors import InputError


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Raise InputError instead of other errors while reading a file and what it holds."""
    try:
        yield path
    except FileNotFoundError:
        raise InputError(f"the report needs {str(path)!r}, which does not exist") from None
    except KeyError as error:
        raise InputError(f"{str(path)!r} is damaged: it lacks {' '.join(str(error).split())}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is damaged: {' '.join(str(error).split())}") from None
