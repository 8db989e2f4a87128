"""What goes on of a federation's killed processes is found, and ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flower_kd.device import federation as federations
from flower_kd.device.federation import SUPERLINK, Federation
from flower_kd.device.processes import Identity

# As a SuperLink: its SuperExec has a session of its own, and starts the ServerApp.
SUPEREXEC = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
TREE = (
    "import subprocess, sys, time\n"
    f"superexec = subprocess.Popen([sys.executable, '-c', {SUPEREXEC!r}], start_new_session=True)\n"
    "superexec.wait(); time.sleep(60)"
)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_what_a_killed_process_started(tmp_path: Path) -> None:
    one, other = (Federation(tmp_path / name, 1, False, 9) for name in ("one", "other"))
    for federation in (one, other):
        (federation.folder / SUPERLINK).mkdir(parents=True)
        federations._start(federation, SUPERLINK, [sys.executable, "-c", TREE], dict(os.environ))
    try:
        started = []
        for federation in (one, other):
            while not (printed := federation.log_of(SUPERLINK).read_text()).endswith("\n"):
                time.sleep(0.02)
            found = Identity.of(int(printed))
            assert found is not None
            started.append(found)
        # Orphans while the other federation's leader runs: their own parent has ended.
        assert one.left_behind() == started[:1]
        os.kill(one.processes[SUPERLINK].pid, signal.SIGKILL)
        os.waitpid(one.processes[SUPERLINK].pid, 0)
        done = subprocess.run(
            [sys.executable, "-m", "flower_kd", "federation", "status", "--folder", str(one.folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"processes go on of what was killed: {started[0].pid} " in done.stdout
        assert federations.down(one) == [f"process {started[0].pid}"]
        assert not started[0].running
        assert one.left_behind() == []
        assert started[1].running
        assert federations.down(other) == [SUPERLINK, f"process {started[1].pid}"]
        assert not started[1].running
    finally:
        for federation in (one, other):
            federations.down(federation)
