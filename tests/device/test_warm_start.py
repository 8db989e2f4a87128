"""The warm process and the launcher that hands over to it, with a target of a few lines in place of Flower's."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flower_kd.device import launch, node, warm
from flower_kd.device.node import WarmProcess

TARGET = """
import json, os, signal, sys, time
print("imported", file=sys.stderr)

def entry():
    said = {"arguments": sys.argv[1:], "folder": os.getcwd(), "mark": os.environ.get("MARK"), "warm": WARM}
    print(json.dumps(said), flush=True)
    if "status" in sys.argv:
        sys.exit(3)
    if "raise" in sys.argv:
        raise RuntimeError("raised by the target")
    if "abort" in sys.argv:
        os.kill(os.getpid(), signal.SIGABRT)
    if "wait" in sys.argv:
        time.sleep(60)

WARM = __name__ != "__main__"
if not WARM:
    entry()
"""
PATIENCE = 30.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a private folder whose launcher falls back to the target as a script."""
    (tmp_path / "target.py").write_text(TARGET)
    own = tmp_path / "own"
    own.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "target.py"} "$@"\n')
    own.chmod(0o700)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with node._private_folder(str(own)) as private:
        yield private
    assert not private.exists()


@pytest.fixture
def process(folder: Path) -> Iterator[WarmProcess]:
    with WarmProcess(folder, ["target:entry", "json"]) as started:
        yield started


def launched(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([folder / node.LAUNCHED, *arguments], capture_output=True, text=True, timeout=60, **options)


def is_warm(done: subprocess.CompletedProcess[str]) -> bool:
    return bool(json.loads(done.stdout)["warm"])


def watched_until(process: WarmProcess, condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        process.watch()
        time.sleep(0.02)


def test_a_message_gets_arguments_environment_folder_and_streams(
    folder: Path, process: WarmProcess, tmp_path: Path
) -> None:
    done = launched(folder, "--token", "a b", "status", cwd=tmp_path, env=os.environ | {"MARK": "1"})
    said = json.loads(done.stdout)
    assert said == {"arguments": ["--token", "a b", "status"], "folder": str(tmp_path), "mark": "1", "warm": True}
    assert done.returncode == 3
    assert "imported" not in done.stderr  # that was before
    assert is_warm(launched(folder))


def test_failures_of_a_message_are_those_of_a_process_of_its_own(folder: Path, process: WarmProcess) -> None:
    raised = launched(folder, "raise")
    assert (raised.returncode, "RuntimeError: raised by the target" in raised.stderr) == (1, True)
    assert launched(folder, "abort").returncode == -signal.SIGABRT
    assert is_warm(launched(folder))


def test_only_this_user_gets_at_the_socket(folder: Path, process: WarmProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / launch.SOCKET).stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / node.LAUNCHED).stat().st_mode) == 0o700
    here, there = socket.socketpair()
    with here, there:
        assert warm._is_own(here)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert not hasattr(socket, "SO_PEERCRED") or not warm._is_own(here)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_refused_even_where_modes_allow_it(folder: Path, process: WarmProcess) -> None:
    launched(folder)
    script = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(10)\n"
        "try: s.connect(sys.argv[1])\n"
        "except PermissionError: sys.exit('no permission')\n"
        "try: s.sendall(b'x' * 8); print('answer', s.recv(10))\n"
        "except ConnectionError: print('answer', b'')"
    )
    command = [sys.executable, "-IS", "-c", script, str(folder / launch.SOCKET)]
    outside = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "no permission" in outside.stderr
    folder.chmod(0o777)
    (folder / launch.SOCKET).chmod(0o777)
    inside = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "answer b''" in inside.stdout
    assert is_warm(launched(folder))


def test_signals_reach_the_message(folder: Path, process: WarmProcess) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        running = subprocess.Popen([folder / node.LAUNCHED, "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert running.stdout is not None
        running.stdout.readline()  # it runs
        running.send_signal(number)
        status = running.wait(PATIENCE)
        assert status == (-signal.SIGTERM if number == signal.SIGTERM else 1)  # KeyboardInterrupt
    assert is_warm(launched(folder))


def test_a_killed_launcher_ends_its_message(folder: Path, process: WarmProcess) -> None:
    running = subprocess.Popen([folder / node.LAUNCHED, "wait"], stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.readline()
    running.kill()
    assert running.stdout.read() == b""  # until whoever holds the other end has ended
    assert is_warm(launched(folder))


def test_without_the_warm_process_messages_start_their_own_and_this_is_said_once(
    folder: Path, process: WarmProcess
) -> None:
    assert is_warm(launched(folder))
    watched_until(process, lambda: process.ready)
    assert process.process is not None
    process.process.kill()
    process.process.wait()
    first, second = launched(folder, "status"), launched(folder, "status")
    assert not is_warm(first)
    assert first.returncode == second.returncode == 3
    assert ("the warm process does not answer" in first.stderr, second.stderr) == (True, "imported\n")


def test_a_killed_warm_process_is_replaced(
    folder: Path, process: WarmProcess, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "pause", 0.1)
    assert is_warm(launched(folder))
    assert process.process is not None
    killed = process.process.pid
    process.process.kill()
    watched_until(process, lambda: process.process is not None and process.process.pid != killed)
    assert is_warm(launched(folder))
    assert "the warm process ended (SIGKILL): another one starts in" in capfd.readouterr().err


def test_a_message_survives_the_warm_process(folder: Path, process: WarmProcess) -> None:
    running = subprocess.Popen([folder / node.LAUNCHED, "wait"], stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.readline()
    assert process.process is not None
    process.process.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.5)
    children = [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _group(pid) == process.process.pid]
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert running.wait(PATIENCE) == 1


def _group(pid: str) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[2]) if fields[0] != "Z" else 0


def test_a_warm_process_that_hangs_is_left_alone_and_replaced(
    folder: Path, process: WarmProcess, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher = folder / node.LAUNCHED
    impatient = tmp_path / "impatient.py"
    impatient.write_text(Path(launch.__file__).read_text().replace("ANSWER_SECONDS = 5.0", "ANSWER_SECONDS = 0.3"))
    launcher.write_text(launcher.read_text().replace(launch.__file__, str(impatient)))
    assert is_warm(launched(folder))
    assert process.process is not None
    hanging = process.process
    hanging.send_signal(signal.SIGSTOP)
    with (tmp_path / "output").open("w+b") as output:  # a pipe would be open in the queue of the hanging process
        done = subprocess.run([launcher, "status"], stdout=output, stderr=output, timeout=20)
        output.seek(0)
        said = output.read().decode()
    assert done.returncode == 3
    assert '"warm": false' in said
    process.pause = 0.1
    watched_until(process, lambda: process.process not in (None, hanging))
    assert is_warm(launched(folder))
    assert "the warm process does not answer: another one starts" in capfd.readouterr().err


def test_messages_wait_for_a_warm_process_that_starts(folder: Path) -> None:
    (folder / launch.STARTING).touch()
    done: list[subprocess.CompletedProcess[str]] = []
    message = threading.Thread(target=lambda: done.append(launched(folder)))
    message.start()
    time.sleep(0.3)
    assert not done
    with WarmProcess(folder, ["target:entry", "json"]):
        message.join(PATIENCE)
        assert is_warm(done[0])


def test_a_worn_warm_process_retires_between_messages(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from flower_kd.device import warm\n"
        "request = warm.Server(Path(sys.argv[1]), most_messages=2).serve()\n"
        "if request: request.adopt(); print('{\"warm\": true}')"
    )
    worn = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worn.stdout is not None
    assert worn.stdout.readline() == b"ready\n"
    assert [is_warm(launched(folder)) for _ in range(2)] == [True, True]
    assert worn.wait(PATIENCE) == warm.RETIRED
    assert (folder / launch.STARTING).exists()  # so that the next message waits


def test_a_warm_process_that_grows_retires(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from flower_kd.device import warm\n"
        "peaks = iter([100, 100, 150, 201, 201]); warm._peak = lambda: next(peaks)\n"
        "warm.Server(Path(sys.argv[1]), most_growth=100).serve()"
    )
    grown = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert grown.stdout is not None
    grown.stdout.readline()
    for _ in range(2):  # each wakes it once
        with socket.socket(socket.AF_UNIX) as knock:
            knock.connect(str(folder / launch.SOCKET))
        time.sleep(0.2)
    assert grown.wait(PATIENCE) == warm.RETIRED


def test_the_warm_process_ends_with_its_node(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from flower_kd.device.node import WarmProcess\n"
        "with WarmProcess(Path(sys.argv[1]), ['target:entry', 'json']) as process:\n"
        "    print(process.process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert is_warm(launched(folder))
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + PATIENCE
    while _group(str(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not folder.exists()
