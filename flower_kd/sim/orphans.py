"""Processes that end when the one that started them is gone, however it went: kill -9 lets it say nothing.

The server of new processes imports this first, and so ends with its parent even in the middle of its other imports.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import threading
from contextlib import suppress

# In the environment of a server: the process that started it, and the folder of the socket on which it is asked.
PARENT = "FLOWER_KD_PARENT"
SOCKETS = "FLOWER_KD_SOCKETS"
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """End this worker, whatever it is doing, as soon as the process that asked for it is gone."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _end_server_with_parent() -> None:
    folder = os.environ[SOCKETS]

    def end(*_: object) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # which a parent that is killed leaves behind
        os._exit(1)

    # A thread that watches would be forked, too. Where there is no prctl (macOS), the server ends after its imports.
    signal.signal(signal.SIGUSR2, end)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGUSR2), 0, 0, 0)
    if os.environ[PARENT] != str(os.getppid()):
        end()


if os.environ.get(PARENT, str(os.getpid())) != str(os.getpid()) and multiprocessing.parent_process() is None:
    _end_server_with_parent()
