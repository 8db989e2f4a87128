"""Handling of Ctrl-C, SIGTERM and a closed terminal: turned into an interruption, or deferred."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECOND_TRY_SECONDS = 0.01  # by then the destructor that swallowed the first has ended


@contextmanager
def as_interruption() -> Iterator[None]:
    """Have each of these signals raise KeyboardInterrupt in a block, except ignored ones (nohup)."""
    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, signal.default_int_handler)
    try:
        with not_lost_in_destructors(signal.SIGINT):
            yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


@contextmanager
def not_lost_in_destructors(number: signal.Signals) -> Iterator[None]:
    """Send this signal again if the KeyboardInterrupt that its handler raises in a block is swallowed.

    Python prints and drops an exception raised in `__del__`: the program would go on, uninterrupted.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(SECOND_TRY_SECONDS, os.kill, (os.getpid(), number)).start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer these signals until the end of a block.

    Only in the main thread, where Python runs signal handlers, whichever thread the signal is sent to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def blocked_in_children() -> Iterator[None]:
    """Let processes that are started in a block begin with these signals blocked."""
    with deferred_signals():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
