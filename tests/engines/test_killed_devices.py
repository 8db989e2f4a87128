"""Devices, the ServerApp and the SuperLink are killed, as processes, and start again.

`pytest -m slow tests/engines/test_killed_devices.py`; the shortest is `-k supernode`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd
import pytest
from processes import ROOT, as_run_config

from flower_kd import load_model, sim
from flower_kd.device.loopback import environment, free_port, running

PATIENCE = 900.0
NODES = 2
ROUNDS = 5
CONFIG: dict[str, object] = {
    "model": "mlp,lenet5", "image-size": 28, "strategy": "neighbor-kd", "baseline": "none",
    "local-steps": 60, "samples-per-node": 60, "reference-size": 60, "momentum": 0.9, "learning-rate": 0.02,
    "timeout": 120.0, "num-nodes": NODES,
}  # fmt: skip


class Federation:
    """A SuperLink with a database and two SuperNodes with a state-dir, whose processes can be killed."""

    def __init__(self, folder: Path, processes: ExitStack) -> None:
        self.folder, self._processes = folder, processes
        self._port = free_port()
        self._env = environment(folder / "home", FLWR_SUPEREXEC_TASK_POLL_INTERVAL="0.05")
        (folder / "home" / "config.toml").write_text(
            '[superlink]\ndefault = "loopback"\n[superlink.loopback]\n'
            f'address = "127.0.0.1:{self._port}"\ninsecure = true\n'
        )
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.start_superlink()
        for vertex in range(NODES):
            (folder / f"device-{vertex}").mkdir()
            self.start_supernode(vertex)

    def start_superlink(self) -> None:
        database = str(self.folder / "superlink.db")
        command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self._port)]
        self._start("superlink", [*command, "--database", database])

        def healthy() -> bool:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=1)
                return True
            return False

        wait(healthy, 120)

    def start_supernode(self, vertex: int) -> None:
        config = f"partition-id={vertex} num-partitions={NODES} state-dir='{self.folder / f'device-{vertex}'}'"
        command = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self._port}"]
        self._start(f"supernode-{vertex}", [*command, "--port", str(free_port()), "--node-config", config])

    def _start(self, name: str, command: list[str]) -> None:
        log = self.folder / f"{name}-{len(list(self.folder.glob('*.log')))}.log"
        self.started[name] = self._processes.enter_context(running(command, self._env, log))

    def kill(self, name: str) -> None:
        """Kill a process with all that it has started, as a loss of power does."""
        for pid in [self.started[name].pid, *self._below(name)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.started[name].wait()

    def kill_server_app(self) -> None:
        """Kill the ServerApp only."""
        [pid] = [pid for pid, args in self._below("superlink").items() if "flwr-serverapp" in args]
        os.kill(pid, signal.SIGKILL)

    def _below(self, name: str) -> dict[int, str]:
        """Return the commands of all processes that a process has started, and those have started, by their ids."""
        listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
        lines = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
        found: dict[int, str] = {}
        parents = {self.started[name].pid}
        while parents:
            children = {int(line[0]): line[-1] for line in lines if int(line[1]) in parents}
            found |= children
            parents = set(children)
        return found

    def run(self, config: dict[str, object], meanwhile: Callable[[], None] = lambda: None) -> str:
        """Run the app, and do something meanwhile; return what was printed when both are done, or the run is."""
        command = ["flwr", "run", str(ROOT), "--run-config", as_run_config(config), "--stream"]
        process = subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.extend(process.stdout))
        reader.start()
        try:
            meanwhile()
            process.wait(PATIENCE)
        finally:
            process.kill()
            reader.join()
        return "".join(printed) + "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with ExitStack() as processes:
        started = Federation(tmp_path, processes)
        yield started
        for name in started.started:  # a ServerApp outlives its SuperLink
            started.kill(name)


def wait(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def rounds_done(run: Path) -> int:
    with suppress(OSError, pd.errors.EmptyDataError):
        return int(pd.read_csv(run / "history.csv")["round"].max())
    return 0


def states(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("device-1/runs/*/*/round-*.safetensors")}


@pytest.mark.slow
def test_a_killed_supernode_goes_on_with_its_own_model(federation: Federation, tmp_path: Path) -> None:
    output_dir = tmp_path / "server" / "run"

    def kill_and_restart() -> None:
        wait(lambda: rounds_done(output_dir) >= 1)
        received = tmp_path / "supernode-1-2.log"
        before = received.read_text().count("Receiving: train")
        wait(lambda: received.read_text().count("Receiving: train") > before)
        time.sleep(2)  # it starts Python, or trains
        federation.kill("supernode-1")
        assert "round-1.safetensors" in states(tmp_path)
        wait(lambda: rounds_done(output_dir) >= 2)  # the other goes on
        federation.start_supernode(1)

    output = federation.run(CONFIG | {"num-server-rounds": ROUNDS, "output-dir": str(output_dir)}, kill_and_restart)
    assert (output_dir / "summary.json").exists(), output
    assert "continues without node 1" in output
    assert "node 1 is back in round" in output
    assert "with its own weights of round" in output
    assert "Traceback" not in output
    history = pd.read_csv(output_dir / "history.csv")
    assert sorted(history[history["vertex"] == 0]["round"]) == list(range(1, ROUNDS + 1))
    accuracy = history[history["vertex"] == 1].set_index("round")["test-accuracy"].dropna()
    back = int(output.split("node 1 is back in round ")[1].split(",")[0])
    assert accuracy[back] > accuracy[1] - 0.05
    assert len(accuracy) < ROUNDS
    for vertex in range(NODES):
        assert load_model(tmp_path / f"device-{vertex}", vertex)
    assert not (output_dir / "models").exists()


@pytest.mark.slow
def test_a_killed_server_goes_on_at_its_round(federation: Federation, tmp_path: Path) -> None:
    """First the ServerApp is killed, then the SuperLink with it; figures are those of an uninterrupted run."""
    output_dir, rounds = tmp_path / "server" / "run", 3
    uninterrupted = CONFIG | {"num-server-rounds": rounds, "evaluate-every": rounds}
    config = uninterrupted | {"output-dir": str(output_dir), "resume": True}

    def kill_server_app() -> None:
        wait(lambda: rounds_done(output_dir) >= 1)
        federation.kill_server_app()

    def kill_superlink() -> None:
        wait(lambda: rounds_done(output_dir) >= 2)
        federation.kill("superlink")
        federation.start_superlink()

    federation.run(config, kill_server_app)
    assert not (output_dir / "summary.json").exists()
    federation.run(config, kill_superlink)
    assert not (output_dir / "summary.json").exists()
    output = federation.run(config)
    assert output.count("resuming after round") >= 1, output
    flower = json.loads((output_dir / "summary.json").read_text())
    here = sim.run(uninterrupted, NODES, tmp_path / "here")
    assert flower["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
    assert flower["bytes"] == here.bytes
    history = pd.read_csv(output_dir / "history.csv")
    assert len(history) == rounds * NODES
    assert not history.duplicated(["round", "vertex"]).any()
