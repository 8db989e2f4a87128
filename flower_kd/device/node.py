"""A node on a device: Flower's SuperNode, and the warm process that its messages are forked from."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE

from flower_kd.device import launch, loopback, processes, refusals, warm
from flower_kd.device.options import NodeOptions
from flower_kd.errors import InputError
from flower_kd.sim.signals import deferred_signals

LAUNCHED = "flwr-clientapp"  # what Flower's SuperExec starts for each message, found in PATH
TICK_SECONDS = 0.5
CONNECTED_SECONDS = 60.0  # a SuperNode that ends later than these was connected
REACH_SECONDS = 3.0  # a SuperLink that takes no connection within these is said not to be there
RESTART_SECONDS = (1.0, 60.0)  # after the first failure to start, and at most


def run(options: NodeOptions, *, warm_start: bool = True) -> int:
    """Run a node until Flower's SuperNode ends or this process is interrupted, and return an exit status.

    All processes that it started end with it. A node that was switched off is not taken in again at once: the SuperNode
    is started again when it can be. Otherwise a SuperNode that ends by itself is a failure, whatever its own status.

    Parameters
    ----------
    options : NodeOptions
        What the node is.
    warm_start : bool
        Whether messages are handled by forks of a warm process, not by new processes.

    Raises
    ------
    InputError
        If an option cannot be used, Flower is not installed beside this package, or it is known why the SuperLink does
        not take the node in.
    """
    options.check()
    env = loopback.QUICKLY | loopback.commands_first(os.environ)
    own = shutil.which(LAUNCHED, path=env["PATH"])
    if own is None or shutil.which("flower-supernode", path=env["PATH"]) is None:
        raise InputError("flower-supernode and flwr-clientapp are not in PATH: install flwr beside flower-kd")
    command = options.supernode_command(loopback.free_port())
    if not warm_start:
        return _keep_connected(options, command, env, lambda: None)
    with _private_folder(own) as folder:
        env["PATH"] = f"{folder}{os.pathsep}{env['PATH']}"
        with WarmProcess(folder) as forker:
            return _keep_connected(options, command, env, forker.watch)


def _keep_connected(
    options: NodeOptions, command: Sequence[str], env: dict[str, str], watch: Callable[[], None]
) -> int:
    """Run the SuperNode, again as long as it is refused for a while only, and return an exit status."""
    _say_if_nothing_listens(options.superlink)
    waited = False
    while True:
        with _running(command, env) as supernode:
            started = time.monotonic()
            while (status := supernode.poll()) is None:
                watch()
                time.sleep(TICK_SECONDS)
        waited = waited and time.monotonic() - started < CONNECTED_SECONDS
        refusal = refusals.ask(options)
        if refusal is None:
            if status == 0:
                _say(
                    "Flower's SuperNode ended by itself: the SuperLink knows this node no longer, as after a start "
                    "without its --database"
                )
            return _status(status) or 1
        if refusal.seconds is None:
            raise InputError(refusal.why)
        if waited:
            raise InputError(f"another node with this key is connected to the SuperLink at {options.superlink}")
        _say(f"{refusal.why}: the next attempt is in {refusal.seconds:.0f} s")
        deadline, waited = time.monotonic() + refusal.seconds, True
        while time.monotonic() < deadline:
            watch()
            time.sleep(TICK_SECONDS)


def _say_if_nothing_listens(address: str) -> None:
    """Say that the SuperLink cannot be reached: Flower tries again by itself, without its address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        _say(f"the SuperLink at {address} cannot be reached ({error}): the node tries again until it can")


class WarmProcess:
    """Keeps a warm process running, in place of one that ended, hangs or has served its time.

    Parameters
    ----------
    folder : Path
        The private folder.
    arguments : sequence of str
        Further arguments of the warm process.
    """

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.deadline = 0.0  # of its start; or, while there is none, when the next one starts
        self.pause = RESTART_SECONDS[0]

    def __enter__(self) -> WarmProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with deferred_signals():
            if self.process is not None:
                self._close_pipes(self.process)
                processes.end_child(self.process)

    def start(self) -> None:
        """Start a process; messages wait until it has imported all it needs."""
        (self.folder / launch.STARTING).touch()
        command = [sys.executable, "-P", "-m", warm.__name__, str(self.folder), *self.arguments]
        with deferred_signals():
            self.process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, process_group=0, bufsize=0)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.ready = False
        self.deadline = time.monotonic() + launch.START_SECONDS

    def watch(self) -> None:
        """Note that the process is ready; start another one if it ended or hangs. Does not wait."""
        if self.process is None:
            if time.monotonic() >= self.deadline:
                self.start()
            return
        assert self.process.stdout is not None
        if self.process.stdout.read():  # None before, and empty at its end
            self.ready = True
            (self.folder / launch.STARTING).unlink(missing_ok=True)
            self.pause = RESTART_SECONDS[0]
        status = self.process.poll()
        silent = (self.folder / launch.SILENT).exists() or (not self.ready and time.monotonic() > self.deadline)
        if status is None and not silent:
            return
        (self.folder / launch.SILENT).unlink(missing_ok=True)
        # Only this process: a message that is being handled goes on.
        self.process.kill()
        self.process.wait()
        self._close_pipes(self.process)
        self.process = None
        if status == warm.RETIRED:
            self.start()
            return
        (self.folder / launch.STARTING).unlink(missing_ok=True)
        how = "does not answer" if status is None else f"ended ({_described(status)})"
        _say(f"the warm process {how}: another one starts in {self.pause:g} s")
        self.deadline = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, RESTART_SECONDS[1])

    @staticmethod
    def _close_pipes(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def _private_folder(own: str) -> Iterator[Path]:
    """Make a folder for this user alone, with a `flwr-clientapp` that hands over to the warm process."""
    folder = Path(tempfile.mkdtemp(prefix="flower-kd-", dir=_short_folder()))  # of mode 0700
    try:
        words = [sys.executable, "-IS", launch.__file__, str(folder), own]
        launcher = folder / LAUNCHED
        launcher.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        launcher.chmod(0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str | None:
    """Return where private folders are made: the path of a socket may have 103 characters, of which they need 26."""
    return None if len(os.fsencode(tempfile.gettempdir())) <= 77 else "/tmp"


@contextmanager
def _running(command: Sequence[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the end of the block, in a process group of its own: Ctrl-C is for this process."""
    with deferred_signals():
        child = subprocess.Popen(
            command, env=env, stdin=DEVNULL, process_group=0, preexec_fn=partial(processes.end_with, os.getpid())
        )
    try:
        yield child
    finally:
        with deferred_signals():
            processes.end_child(child)


def _status(code: int) -> int:
    """Return a child's exit status as one of this process."""
    return code if code >= 0 else 128 - code


def _described(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def _say(sentence: str) -> None:
    print(f"flower-kd: {sentence}", file=sys.stderr, flush=True)
