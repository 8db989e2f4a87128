"""Ctrl-C, SIGTERM and a terminal that is closed, as one end of a command; and moments at which they have to wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def as_interruption() -> Iterator[None]:
    """Have each of these signals raise KeyboardInterrupt in a block, but for those that are ignored (nohup)."""
    before = {number: signal.getsignal(number) for number in ENDS}
    heard = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let these signals wait until a block is over.

    In the main thread, which is the one that Python has heed signals, whichever thread they are sent to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def blocked_in_children() -> Iterator[None]:
    """Have processes that are started in a block begin with these signals blocked."""
    with deferred_signals():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
