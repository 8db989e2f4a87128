"""A federation of Flower's own processes on this machine, as on devices: seconds a round, CPU, memory, figures."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flower_kd.bench.figure import Figure
from flower_kd.device import federation
from flower_kd.device.federation import Federation
from flower_kd.errors import InputError
from flower_kd.runs import results
from flower_kd.runs.results import Summary
from flower_kd.sim.engine import run as run_here

NODES = 2
FEW, ROUNDS = 2, 7  # of two runs, whose difference has no handshake
CONFIG = {
    "strategy": "neighbor-kd",
    "baseline": "none",
    "model": "mlp",
    "dataset": "digits",
    "num-server-rounds": ROUNDS,
    "local-steps": 5,
}
PIPELINED = CONFIG | {"pipeline": 1, "num-server-rounds": 3 * ROUNDS}
PARTS = {"flower_kd.device.warm": "warm process", "flower-supernode": "SuperNode", "flower-superexec": "SuperExec"}


@dataclass
class _Measured:
    seconds: float  # per round
    with_handshake: float  # the same, with a share of all that is done once
    cpu: float  # seconds per message, of all processes of a node
    resident: dict[str, float]  # MB by process
    accuracy: list[float]


def device_rounds() -> list[Figure]:
    """Return the seconds of a round with warm starts, and how far its figures are from those in process.

    Raises
    ------
    InputError
        If a federation does not start, its run does not finish, or this machine does not run Linux.
    """
    if sys.platform != "linux":
        raise InputError("the measurement 'devices' needs Linux, where /proc tells what processes use")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        here = run_here(CONFIG, NODES, folder / "here")
        here_pipelined = run_here(PIPELINED, NODES, folder / "here-pipelined")
        warm, cold = (_measured(folder / name, CONFIG, cold=name == "cold") for name in ("warm", "cold"))
        pipelined = _measured(folder / "pipelined", PIPELINED, cold=False)
    difference = max(
        abs(there - expected)
        for measured, summary in ((warm, here), (cold, here), (pipelined, here_pipelined))
        for there, expected in zip(measured.accuracy, summary.accuracy["per_node"], strict=True)
    )
    return [
        Figure(
            f"devices: a round of neighbor-kd, {NODES} nodes, MLP, 5 steps, on loopback",
            warm.seconds,
            5.0,
            at_most=True,
            unit="s",
            parts={
                f"s, with a {ROUNDS}th of the handshake": warm.with_handshake,
                "s, with a new process for each message": cold.seconds,
                "s, the same in process": here.seconds["per_round"],
                "s of CPU a message and node": warm.cpu,
                "s of CPU, with new processes": cold.cpu,
                **{f"MB resident at rest: {name}": size for name, size in warm.resident.items()},
            },
        ),
        Figure(
            "devices: the same with pipeline = 1",
            pipelined.seconds,
            1.5,
            at_most=True,
            unit="s",
            parts={
                f"s, with a {3 * ROUNDS}th of the handshake": pipelined.with_handshake,
                "s, the same in process": here_pipelined.seconds["per_round"],
                "s of CPU a message and node": pipelined.cpu,
            },
        ),
        Figure("devices: accuracy at the end, from that in process", difference, 1e-6, at_most=True),
    ]


def _measured(folder: Path, config: dict[str, Any], *, cold: bool) -> _Measured:
    with federation.temporary(folder, NODES, tls=False, cold=cold) as running:
        few = config | {"num-server-rounds": FEW}
        for _ in range(2):  # the first run brings the app to the nodes
            start = _run(running, few, folder / "few").seconds["total"]
        before = _cpu_seconds(running)
        summary = _run(running, config, folder / "all")
        messages = NODES * (1 + config["num-server-rounds"])  # the handshake, and one a round
        cpu = (_cpu_seconds(running) - before) / messages
        seconds = (summary.seconds["total"] - start) / (config["num-server-rounds"] - FEW)
        return _Measured(seconds, summary.seconds["per_round"], cpu, _resident(running), summary.accuracy["per_node"])


def _run(running: Federation, config: dict[str, Any], name: Path) -> Summary:
    """Return the summary of a run on a federation."""
    return results.read(federation.run(running, config, log=name.with_suffix(".log"))).summary


def _stats(running: Federation) -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat, from the state on, of the processes in the nodes' sessions."""
    sessions = {str(identity.pid) for name, identity in running.processes.items() if name != federation.SUPERLINK}
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdecimal() else []
        except OSError:  # it has just ended
            continue
        if fields and fields[3] in sessions:
            found[int(entry.name)] = fields
    return found


def _cpu_seconds(running: Federation) -> float:
    """Return the CPU seconds of the nodes' processes, and of those that they started and that have ended."""
    ticks = sum(int(number) for fields in _stats(running).values() for number in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _resident(running: Federation) -> dict[str, float]:
    """Return the resident megabytes of a node's processes."""
    sizes: dict[str, float] = {}
    for pid, fields in _stats(running).items():
        command = (Path("/proc") / str(pid) / "cmdline").read_text().replace("\0", " ")
        name = next((name for part, name in PARTS.items() if part in command), "flower-kd node")
        if fields[0] != "Z":
            sizes[name] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return sizes
