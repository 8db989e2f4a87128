"""A killed command leaves no process and no folder behind, long before they would end by themselves."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

WHILE_IT_IMPORTS = """
import time
from flower_kd.sim import preload

if __name__ == "__main__":
    preload.context(["flower_kd.study.job"])
    print("started", flush=True)
    time.sleep(600)
"""
WHILE_A_WORKER_IS_BUSY = """
import time
from flower_kd.sim import orphans, preload

def work(pipe):
    orphans.end_with_parent()
    pipe.send("started")
    time.sleep(600)

if __name__ == "__main__":
    context = preload.context([])
    ours, theirs = context.Pipe()
    context.Process(target=work, args=(theirs,)).start()
    print(ours.recv(), flush=True)
    time.sleep(600)
"""

WHEN_THE_SERVER_NOTICES_FIRST = """
import os
import time
from multiprocessing import forkserver
from flower_kd.sim import preload

if __name__ == "__main__":
    process = preload.context([]).Process()
    process.start()
    process.join()
    os.close(forkserver._forkserver._forkserver_alive_fd)  # as the kernel does before the process counts as ended
    time.sleep(0.5)
    print("started", flush=True)
    time.sleep(600)
"""


def running(session: int) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it is gone
            continue
        if int(state[3]) == session and state[0] != "Z":
            found.append(process.name)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a temporary folder with a short path, as that of a socket must be."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux only")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    "script",
    [WHILE_IT_IMPORTS, WHILE_A_WORKER_IS_BUSY, WHEN_THE_SERVER_NOTICES_FIRST],
    ids=["imports", "busy", "noticed"],
)
def test_a_killed_command_leaves_nothing(script: str, number: int, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(script)
    env = os.environ | {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch")}
    command = [sys.executable, "script.py"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n", process.communicate(timeout=120)[1]
        assert len(running(process.pid)) > 1
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=120)
        deadline = time.monotonic() + 120
        while running(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running(process.pid) == []
    assert list(folder.iterdir()) == []
    assert "Traceback" not in errors
