"""Processes by id, safely: which one it is, ending it with all that it started, and ones that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PROC = Path("/proc")
_STARTED = 19  # field of /proc/PID/stat, from the state on (proc(5)); the first are state, parent, group and session
END_SECONDS = 15.0  # until what does not end by SIGTERM is killed; Flower's own processes give up after 5


@dataclass(frozen=True)
class Identity:
    """A process: its id, which another one may get later, and when it started.

    Parameters
    ----------
    pid : int
        Its id.
    started : str
        On Linux, the machine's start, and clock ticks since then, which no change of the clock moves; elsewhere what
        `ps` says.
    """

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return the identity of the process with an id; None if there is none, or it has ended."""
        if sys.platform == "linux":
            stat = _stat(pid)
            if stat is None:
                return None
            boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
            return cls(pid, f"{boot} {stat[_STARTED]}")
        done = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
        state, _, started = done.stdout.strip().partition(" ")
        return None if not state or state.startswith("Z") else cls(pid, started.strip())

    @property
    def running(self) -> bool:
        """Whether the process with the id is still this one."""
        return Identity.of(self.pid) == self


def families(leaders: Iterable[Identity]) -> set[Identity]:
    """Return the running processes of sessions, and those that they started."""
    return {member for leader in leaders for member in _family(leader.pid)}


def with_variable(name: str, value: str) -> list[Identity]:
    """Return the running processes of this user that were started with an environment variable; only on Linux."""
    if sys.platform != "linux":
        return []
    wanted, found = os.fsencode(f"{name}={value}"), []
    for entry in _PROC.iterdir():
        with suppress(OSError):  # it is another user's, or has ended
            if entry.name.isdecimal() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(Identity.of(int(entry.name)))
    return [identity for identity in found if identity is not None]


def end_sessions(leaders: Iterable[Identity], seconds: float = END_SECONDS) -> None:
    """End processes, of which leaders of sessions with the whole session, and all that they started.

    They get SIGTERM and may end the others; what is left after some seconds is killed. Nothing is sent to a process
    that only has the id of one that ended.
    """
    running = [leader for leader in leaders if leader.running]
    members = families(running)
    for leader in running:
        _send(leader.pid, signal.SIGTERM)

    def left() -> list[Identity]:
        members.update(families(running))  # what was started since
        return [member for member in members if member.running]

    _wait(lambda: bool(left()), seconds)
    for member in left():
        _send(member.pid, signal.SIGKILL)
    _wait(lambda: bool(left()), seconds)


def end_child(child: subprocess.Popen[bytes], seconds: float = END_SECONDS) -> None:
    """End a child and the process group that it leads: by SIGTERM, and by SIGKILL what is left after some seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        if _wait(lambda: child.poll() is None or _group_runs(child.pid), seconds):
            break
    child.wait()


def end_with(parent: int) -> None:
    """Let this process, and what it executes instead of itself, get SIGTERM when its parent is gone, on Linux."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _wait(going_on: Callable[[], bool], seconds: float) -> bool:
    """Wait until something has ended, and return whether it has."""
    deadline = time.monotonic() + seconds
    while going_on():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _family(leader: int) -> list[Identity]:
    """Return the running processes of a session, and those that they started, which may have sessions of their own."""
    table = _table()
    pids = [pid for pid, row in table.items() if leader in (pid, row.session)]
    for pid in pids:  # it grows meanwhile
        pids += [child for child, row in table.items() if row.parent == pid and child not in pids]
    return [identity for identity in map(Identity.of, pids) if identity is not None]


def _group_runs(group: int) -> bool:
    """Return whether a process of a group runs."""
    return any(row.group == group for row in _table().values())


@dataclass(frozen=True)
class _Row:
    parent: int
    group: int
    session: int  # 0 where sessions have no numbers


def _table() -> dict[int, _Row]:
    """Return all running processes by id; zombies, which somebody else waits for, do not count."""
    if sys.platform == "linux":
        stats = {int(entry.name): _stat(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdecimal()}
        return {pid: _Row(*map(int, stat[1:4])) for pid, stat in stats.items() if stat is not None}
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {
        int(pid): _Row(int(parent), int(group), 0) for pid, parent, group, state in rows if not state.startswith("Z")
    }


def _stat(pid: int) -> list[str] | None:
    """Return the fields of a process from its state on; None if it has ended."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()  # its name may contain spaces
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields
