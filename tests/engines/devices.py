"""Flower's processes as on devices, whose power and links can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd
from lossy_link import SERVER, LossyLink
from relay import Relay

from flower_kd.device.federation import write_app
from flower_kd.device.loopback import environment, free_port, running

PATIENCE = 900.0  # seconds: ten times of what a run takes, for a busy machine
NODES = 2


class Devices:
    """A SuperLink with a database, and two nodes with a state-dir, each of which has a link of its own to it.

    Parameters
    ----------
    folder : Path
        Where they keep their files, and their logs.
    processes : ExitStack
        Ends what was started.
    warm : bool
        Whether nodes are started by `flower-kd node`, not as plain SuperNodes.
    between : LossyLink, optional
        What both links are to go over, between two network namespaces.
    """

    def __init__(
        self, folder: Path, processes: ExitStack, *, warm: bool = False, between: LossyLink | None = None
    ) -> None:
        self.folder, self.warm, self.between, self._processes = folder, warm, between, processes
        self._host = "127.0.0.1" if between is None else SERVER
        self._port = free_port()
        self._env = environment(folder / "home", FLWR_SUPEREXEC_TASK_POLL_INTERVAL="0.05")
        (folder / "home" / "config.toml").write_text(
            '[superlink]\ndefault = "loopback"\n[superlink.loopback]\n'
            f'address = "{self._host}:{self._port}"\ninsecure = true\n'
        )
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.links = [processes.enter_context(Relay(self._port)) for _ in range(NODES)]
        self.start_superlink()
        for vertex in range(NODES):
            (folder / f"device-{vertex}").mkdir()
            self.start_supernode(vertex)

    def start_superlink(self) -> None:
        database = str(self.folder / "superlink.db")
        command = ["flower-superlink", "--insecure", "--host", self._host, "--port", str(self._port)]
        self._start("superlink", [*command, "--database", database])

        ask = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=1)"
        command = [*self._at("superlink"), sys.executable, "-c", ask, f"http://{self._host}:{self._port}/health"]

        def healthy() -> bool:
            return subprocess.run(command, capture_output=True).returncode == 0

        wait(healthy, 120)

    def start_supernode(self, vertex: int, **env: str) -> None:
        port = self.links[vertex].port if self.between is None else self._port
        address = ["--insecure", "--superlink", f"{self._host}:{port}"]
        state = self.folder / f"device-{vertex}"
        if self.warm:
            place = ["--partition-id", str(vertex), "--num-partitions", str(NODES), "--state-dir", str(state)]
            command = [sys.executable, "-m", "flower_kd", "node", *address, *place]
        else:
            config = f"partition-id={vertex} num-partitions={NODES} state-dir='{state}'"
            command = ["flower-supernode", *address, "--port", str(free_port()), "--node-config", config]
        self._start(f"supernode-{vertex}", command, **env)

    def _start(self, name: str, command: list[str], **env: str) -> None:
        log = self.folder / f"{name}-{len(list(self.folder.glob('*.log')))}.log"
        self.started[name] = self._processes.enter_context(running([*self._at(name), *command], self._env | env, log))

    def _at(self, name: str) -> list[str]:
        """Return what comes before the command of a process, where it runs at an end of a link."""
        return [] if self.between is None else self.between.within(int(name.startswith("supernode")))

    def log_of(self, name: str) -> str:
        """Return what a process has printed, since its last start."""
        newest = max(self.folder.glob(f"{name}-*.log"), key=lambda path: int(path.stem.rpartition("-")[2]))
        return newest.read_text(errors="replace")

    def received(self, vertex: int) -> int:
        """Return how many train messages a node has received since its last start."""
        return self.log_of(f"supernode-{vertex}").count("Receiving: train")

    def kill(self, name: str) -> None:
        """Kill a process with all that it has started, as a loss of power does."""
        self.signal(name, signal.SIGKILL)
        self.started[name].wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and all that it has started."""
        signal_all(self.started[name].pid, number)

    def kill_server_app(self) -> None:
        """Kill the ServerApp only."""
        [pid] = [pid for pid, args in below(self.started["superlink"].pid).items() if "flwr-serverapp" in args]
        os.kill(pid, signal.SIGKILL)

    def run(self, config: dict[str, object], meanwhile: Callable[[], None] = lambda: None) -> str:
        """Run the app, and do something meanwhile; return what was printed when both are done, or the run is."""
        app = write_app(self.folder / "app", {"num-nodes": NODES, **config})
        command = [*self._at("flwr"), "flwr", "run", str(app), "--stream"]
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

    def end(self) -> None:
        """Kill everything: a ServerApp outlives its SuperLink."""
        for name in self.started:
            self.kill(name)


def below(parent: int) -> dict[int, str]:
    """Return the commands of all processes that a process has started, and those have started, by their ids."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    found: dict[int, str] = {}
    parents = {parent}
    while parents:
        children = {int(line[0]): line[-1] for line in lines if int(line[1]) in parents}
        found |= children
        parents = set(children)
    return found


def signal_all(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and all that it has started."""
    for each in [pid, *below(pid)]:
        with suppress(ProcessLookupError):
            os.kill(each, number)


def wait(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def rounds_done(run: Path) -> int:
    """Return the last round in a run's history."""
    with suppress(OSError, pd.errors.EmptyDataError):
        return int(pd.read_csv(run / "history.csv")["round"].max())
    return 0
