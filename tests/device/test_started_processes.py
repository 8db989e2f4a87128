"""Ending processes by id."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from flower_kd.device.processes import Identity, end_child, end_sessions

TREE = (
    "import subprocess, sys, time\n"
    "ignore = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)'\n"
    "stubborn = ignore + '; print(1, flush=True); time.sleep(60)'\n"
    "child = subprocess.Popen([sys.executable, '-c', stubborn], stdout=subprocess.PIPE, start_new_session={})\n"
    "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
)


def started(*, own_session: bool = False) -> tuple[subprocess.Popen[str], Identity, Identity]:
    """Return a leader of a session, its identity, and that of its child, which ignores SIGTERM."""
    command = [sys.executable, "-c", TREE.format(own_session)]
    leader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert leader.stdout is not None
    found = Identity.of(leader.pid), Identity.of(int(leader.stdout.readline()))
    assert found[0] is not None
    assert found[1] is not None
    return leader, found[0], found[1]


@pytest.mark.parametrize("own_session", [False, True])
def test_a_session_ends_with_what_ignores_the_signal(own_session: bool) -> None:
    leader, identity, child = started(own_session=own_session)
    before = time.monotonic()
    end_sessions([identity], seconds=0.5)
    assert not child.running
    assert leader.wait(5) == -15
    assert 0.4 < time.monotonic() - before < 5


def test_a_child_ends_with_its_group() -> None:
    leader, _, child = started()
    end_child(leader, seconds=0.5)  # type: ignore[arg-type]
    assert leader.returncode == -15
    assert not child.running


def test_a_process_that_has_the_id_of_another_is_left_alone() -> None:
    leader, identity, child = started()
    try:
        other = replace(identity, started=f"{identity.started}0")
        assert not other.running
        end_sessions([other], seconds=0.5)
        assert identity.running
        assert child.running
    finally:
        end_child(leader, seconds=0.1)  # type: ignore[arg-type]
    assert Identity.of(leader.pid) is None
