"""Processes that exit when their parent is gone, even if it was killed and could not stop them.

The fork server imports this first, so that it exits with its parent even during its other imports.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import shutil
import signal
import threading
import time
from contextlib import suppress

# In the environment of the fork server: its parent's process id, and the folder of its socket.
PARENT = "FLOWER_KD_PARENT"
SOCKETS = "FLOWER_KD_SOCKETS"
_PR_SET_PDEATHSIG = 1
PARENT_SECONDS = 10.0


def end_with_parent() -> None:
    """Exit this worker, whatever it is doing, as soon as its parent process is gone."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _end_server_with_parent() -> None:
    folder, server = os.environ[SOCKETS], os.getpid()

    def end(*_: object) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # a killed parent leaves it behind
        os._exit(1)

    def end_if_the_parent_ends() -> None:
        # A dying parent closes its pipes, at which the server exits, a moment before the kernel sends the signal.
        deadline = time.monotonic() + PARENT_SECONDS
        while os.getpid() == server and time.monotonic() < deadline:
            if os.environ[PARENT] != str(os.getppid()):
                end()
            time.sleep(0.01)

    # No watching thread: forking a process with threads is unsafe. Without prctl (macOS), only imports end early.
    signal.signal(signal.SIGUSR2, end)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGUSR2), 0, 0, 0)
    atexit.register(end_if_the_parent_ends)
    if os.environ[PARENT] != str(os.getppid()):
        end()


if os.environ.get(PARENT, str(os.getpid())) != str(os.getpid()) and multiprocessing.parent_process() is None:
    _end_server_with_parent()
