"""What a check does with the exceptions of a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flower_kd.failures import describe


@contextmanager
def attempt(case: str) -> Iterator[None]:
    """Turn any exception in a block into an AssertionError that names the case, and the place in the part's code."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{case}: {describe(error)}") from error
