"""A process that has imported what messages need, and forks a child for each one: `python -m flower_kd.device.warm`.

`launch` connects to its socket. Only the owner of the private folder can: its mode is 0700, the socket's 0600, and the
kernel is asked who is at the other end. Nothing uses torch before a fork: its threads would be missing in the child.

The node that started it keeps the other end of its standard input: the process ends with the node, however that ended.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from flower_kd.device import app_modules, launch
from flower_kd.sim import preload

ENTRY = "flwr.supernode.cli.flwr_clientapp:flwr_clientapp"
# At their first use, messages import those beside the first.
MODULES = [
    *preload.NODES,
    "sklearn.datasets",
    "networkx",
    "flower_kd.strategies",
    "flower_kd.data.own",
    "flower_kd.data.skew_partitioner",
]
RETIRED = 75  # the exit status of one that has served its time
MOST_MESSAGES = 1000
MOST_GROWTH = 200_000_000  # bytes by which its peak memory may grow


@dataclass
class Request:
    """What a forked child is to run, with the standard streams of the process that asked for it."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]

    def adopt(self) -> None:
        """Make this process look as if it had been started with the request."""
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        sys.argv = self.arguments
        for number in (*launch.FORWARDED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed()


@dataclass
class Server:
    """Forks a child for each message.

    Parameters
    ----------
    folder : Path
        The private folder, in which the socket is made.
    most_messages : int
        After so many messages it ends with the status `RETIRED`.
    most_growth : int
        So it does when its peak memory has grown by more bytes than these.
    """

    folder: Path
    most_messages: int = MOST_MESSAGES
    most_growth: int = MOST_GROWTH
    # By process id; None once whoever asked for it is gone.
    children: dict[int, socket.socket | None] = field(default_factory=dict)

    def serve(self) -> Request | None:
        """Answer until the node is gone, and return None; return in each child what it is to run."""
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        for number in launch.FORWARDED:  # the node decides when this process ends
            signal.signal(number, signal.SIG_IGN)
        before, messages = _peak(), 0
        with self._listening() as listener:
            print("ready", flush=True)
            while True:
                worn = messages >= self.most_messages or _peak() > before + self.most_growth
                if worn and not self.children:
                    (self.folder / launch.STARTING).touch()  # a message waits for the next one
                    os._exit(RETIRED)
                asking = [connection for connection in self.children.values() if connection is not None]
                waiting = [sys.stdin.fileno(), wake, *asking, *([] if worn else [listener])]
                ready, _, _ = select.select(waiting, [], [])
                if sys.stdin.fileno() in ready:
                    self._end_children()
                    return None
                if wake in ready:
                    with suppress(BlockingIOError):
                        wake.recv(4096)
                    self._reap()
                for pid, connection in list(self.children.items()):
                    if connection is not None and connection in ready:
                        self._forward(pid, connection)
                if listener in ready:
                    asked = _agreed(listener)
                    if asked is None:
                        continue
                    connection, request = asked
                    messages += 1
                    pid = os.fork()
                    if pid == 0:
                        # The connection stays open here: it ends when both this process and its child have ended.
                        signal.set_wakeup_fd(-1)
                        for other in (listener, wake, woken, *asking):
                            other.close()
                        connection.detach()
                        return request
                    for stream in request.streams:
                        os.close(stream)
                    self.children[pid] = connection
                    _send(connection, launch.STARTED)

    def _listening(self) -> socket.socket:
        path = self.folder / launch.SOCKET
        path.unlink(missing_ok=True)  # of one that was killed
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen()
        listener.setblocking(False)
        (self.folder / launch.SAID).unlink(missing_ok=True)
        return listener

    def _reap(self) -> None:
        """Tell for each child that has ended how it ended."""
        for pid, connection in list(self.children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.children.pop(pid)
                if connection is not None:
                    _send(connection, b"%d\n" % os.waitstatus_to_exitcode(status))
                    connection.close()

    def _forward(self, pid: int, connection: socket.socket) -> None:
        """Send a child the signal that the process that asked for it got; end it if that process is gone."""
        try:
            numbers = connection.recv(1)
        except OSError:
            numbers = b""
        os.kill(pid, numbers[0] if numbers else signal.SIGTERM)
        if not numbers:
            connection.close()
            self.children[pid] = None

    def _end_children(self) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGTERM)


def _agreed(listener: socket.socket) -> tuple[socket.socket, Request] | None:
    """Return the next connection and its request if it still wants an answer; None if not."""
    streams: list[int] = []
    connection = None
    try:
        connection, _ = listener.accept()
        connection.settimeout(launch.ANSWER_SECONDS)
        if not _is_own(connection):
            raise PermissionError
        header, streams, _, _ = socket.recv_fds(connection, 8, 3)
        rest = int.from_bytes(header, "big")
        parts = []
        while rest > 0:
            parts.append(connection.recv(min(rest, 1 << 16)))
            if not parts[-1]:
                raise EOFError
            rest -= len(parts[-1])
        arguments, environment, folder = json.loads(b"".join(parts))
        connection.sendall(launch.READY)
        if connection.recv(len(launch.GO)) != launch.GO:
            raise EOFError
        connection.settimeout(None)
        return connection, Request(arguments, environment, folder, streams)
    except (OSError, EOFError, ValueError):
        for stream in streams:
            os.close(stream)
        if connection is not None:
            connection.close()
        return None


def _is_own(connection: socket.socket) -> bool:
    """Return whether the process at the other end has this one's user; without Linux, the folder's mode has to do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, user, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return bool(user == os.geteuid())


def _send(connection: socket.socket, line: bytes) -> None:
    with suppress(OSError):  # the other end is gone
        connection.sendall(line)


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(folder: str, entry: str = ENTRY, *modules: str) -> None:
    """Import what messages need, then fork for each message a process that calls the entry.

    Parameters
    ----------
    folder : str
        The private folder.
    entry : str
        What a child calls, as `module:function`.
    modules : str
        What is imported; by default all that nodes of this package and Flower's `flwr-clientapp` import.
    """
    module, _, function = entry.partition(":")
    call = getattr(importlib.import_module(module), function)
    for name in modules or MODULES:
        importlib.import_module(name)
    # What modules tidy up at the exit of their process is not a child's business: torch takes longer for it than a
    # small message.
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False
    gc.collect()
    gc.freeze()  # collections in the children do not copy the pages of what is imported
    request = Server(Path(folder)).serve()
    if request is None:
        shutil.rmtree(folder, ignore_errors=True)  # a killed node leaves it behind
        os._exit(0)  # there is nothing to tidy up, and libraries complain about frozen objects
    request.adopt()
    app_modules.prefer_those_of_the_app()
    _run(call)


def _run(call: Callable[[], object]) -> NoReturn:
    """Run the entry in a child, and exit as a process of multiprocessing does, without taking all modules apart."""
    status: object = 1
    try:
        status = call()
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
