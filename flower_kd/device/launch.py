"""What Flower starts as `flwr-clientapp` for each message: it hands over to the warm process, or starts Flower's own.

A script that runs without the package, as every message waits for what it imports. Arguments: the private folder, the
path of Flower's own `flwr-clientapp`, and what Flower says to it.

A message is never processed twice: the warm process forks only after this one has said `GO`, and Flower's own is
started only if nothing was forked.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import NoReturn

SOCKET, STARTING, SILENT, SAID = "socket", "starting", "silent", "said"  # names in the private folder
READY, GO, STARTED = b"ready\n", b"go\n", b"started\n"
ANSWER_SECONDS = 5.0  # a warm process that does not answer within these is taken for one that hangs
START_SECONDS = 120.0  # how long one that is being started is waited for: a cold start would take as long
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(folder: str, *command: str) -> NoReturn:
    """Handle a message, and exit with the status of the process that did."""
    for _ in range(2):  # the second time through the next warm process, if the first was just being replaced
        connection = _connected(folder)
        status = None if connection is None else _through_warm_process(connection, folder, command)
        if status is not None:
            sys.exit(status)
        if os.path.exists(os.path.join(folder, SILENT)):
            break
    _say_once(folder)
    os.execv(command[0], command)


def _connected(folder: str) -> socket.socket | None:
    """Return a connection to the warm process, once it has started; None if there is none."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        starting = os.path.exists(os.path.join(folder, STARTING))
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(os.path.join(folder, SOCKET))
            return connection
        except TimeoutError:  # its queue is full
            _report_silence(folder)
            return None
        except OSError:
            connection.close()
            if not starting or time.monotonic() > deadline:
                return None
            time.sleep(0.05)


def _through_warm_process(connection: socket.socket, folder: str, command: tuple[str, ...]) -> int | None:
    """Return the exit status of the process that the warm one forks; None if it forks none."""
    request = json.dumps([command, dict(os.environ), os.getcwd()]).encode()
    lines = connection.makefile("rb")
    try:
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(request)
        if lines.readline() != READY:
            return None
        connection.settimeout(None)
        for number in FORWARDED:
            signal.signal(number, partial(_forward, connection))
        connection.sendall(GO)
        if lines.readline() != STARTED:
            return None
    except TimeoutError:
        _report_silence(folder)
        return None
    except OSError:
        return None
    line = b""
    with suppress(OSError):
        line = lines.readline()  # empty when the warm process and the forked one have both ended
    status = int(line or 1)
    if status < 0:  # as if the signal had ended this process
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _forward(connection: socket.socket, number: int, _: object) -> None:
    """Let the warm process send a signal to the forked one."""
    try:
        connection.sendall(bytes([number]))
    except OSError:
        os._exit(128 + number)


def _report_silence(folder: str) -> None:
    """Let the node replace the warm process."""
    with suppress(OSError):
        open(os.path.join(folder, SILENT), "wb").close()


def _say_once(folder: str) -> None:
    """Say that messages are handled by cold starts, unless that was said since the last warm one."""
    with suppress(OSError):
        open(os.path.join(folder, SAID), "xb").close()
        sys.stderr.write(
            "flower-kd: the warm process does not answer: until there is another one, each message starts a process of "
            "its own, which is slower\n"
        )
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
