"""A SuperLink with many SuperNodes, of clients that do nothing, on one machine.

`SUPERNODES=64 python -m pytest -m slow -s tests/engines/test_many_supernodes.py` prints what they cost.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import many_supernodes
import pytest
from processes import ROOT

from flower_kd.device import launch, loopback, processes
from flower_kd.device.processes import Identity
from flower_kd.device.superlink import connected

NODES = int(os.environ.get("SUPERNODES", "4"))
ROUNDS = 4
STARTS_APART = 0.7  # seconds: the process that forks them answers one after the other
PATIENCE = 900.0
APP = """
[project]
name = "many-supernodes"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "flower-kd"

[tool.flwr.app.components]
serverapp = "many_supernodes:app"
clientapp = "flower_kd.bench.apps:idle"

[tool.flwr.app.config]
rounds = {rounds}
output = "{output}"
"""


def kept_up(path: Path, env: dict[str, str]) -> None:
    """Write launchers that hand Flower's commands over to the process that forks them."""
    for name in many_supernodes.COMMANDS:
        own = shutil.which(name, path=env["PATH"])
        words = [sys.executable, "-IS", launch.__file__, str(path), str(own)]
        (path / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (path / name).chmod(0o700)


def megabytes(members: Iterable[Identity]) -> float:
    """Return the memory of processes; of what several share, each has its part."""
    lines = [Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines() for member in members if member.running]
    return sum(int(line.split()[1]) for each in lines for line in each if line.startswith("Pss:")) / 1024


def cpu_seconds(members: Iterable[Identity]) -> float:
    """Return the CPU seconds of processes and of their children that have ended."""
    stats = [Path(f"/proc/{member.pid}/stat").read_text().rpartition(")")[2].split() for member in members]
    return sum(int(number) for stat in stats for number in stat[11:15]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow  # a SuperLink, and the SuperNodes
@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_all_answer_in_every_round(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir(mode=0o700)
    paths = os.pathsep.join([str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = loopback.environment(tmp_path / "flwr", PYTHONPATH=paths)
    kept_up(commands, env)
    port = loopback.free_port()
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        stack.enter_context(loopback.superlink(env, port, tmp_path / "superlink.log"))
        forks = ["-c", f"import many_supernodes; many_supernodes.fork_commands({str(commands)!r})"]
        forker = subprocess.Popen(
            [sys.executable, *forks], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        started = [found for found in [Identity.of(forker.pid)] if found]
        stack.callback(processes.end_child, forker)
        stack.callback(processes.end_sessions, started)
        assert forker.stdout is not None
        assert forker.stdout.readline() == b"ready\n"
        node_env = env | {"PATH": f"{commands}{os.pathsep}{env['PATH']}"}
        for vertex in range(NODES):
            command = ["flower-supernode", "--insecure", "--superlink", address, "--host", "127.0.0.1"]
            command += ["--port", str(loopback.free_port()), "--node-config", f"partition-id={vertex}"]
            stack.enter_context(loopback.running(command, node_env, tmp_path / f"node-{vertex}.log"))
            time.sleep(STARTS_APART)
        deadline = time.monotonic() + PATIENCE
        with connected(address, None) as superlink:
            while sum(node.status == "online" for node in superlink.nodes()) < NODES:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        time.sleep(5)
        before = cpu_seconds(processes.families(started))
        time.sleep(10)
        at_rest = (cpu_seconds(processes.families(started)) - before) / 10
        memory = megabytes(processes.families(started))
        (tmp_path / "app").mkdir()
        (tmp_path / "app" / "LICENSE").write_text("Apache-2.0\n")
        (tmp_path / "app" / "pyproject.toml").write_text(APP.format(rounds=ROUNDS, output=tmp_path / "found.json"))
        (tmp_path / "flwr" / "config.toml").write_text(f'[superlink.many]\naddress = "{address}"\ninsecure = true\n')
        printed = loopback.flwr_run(tmp_path / "app", env, "many", timeout=PATIENCE)
        assert (tmp_path / "found.json").exists(), printed
        found = json.loads((tmp_path / "found.json").read_text())
    print(f"\n{NODES} SuperNodes: {memory:.0f} MB, {at_rest:.2f} cores at rest, rounds of", end=" ")
    print(", ".join(f"{seconds:.1f} s ({answers} answers)" for seconds, answers in zip(*found.values(), strict=True)))
    assert found["answers"] == [NODES] * ROUNDS
    assert Identity.of(forker.pid) is None
