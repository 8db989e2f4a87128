"""Devices, the ServerApp and the SuperLink are killed, as processes, and start again.

`pytest -m slow tests/engines/test_killed_devices.py`; the shortest is `-k supernode`.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
from devices import NODES, Devices, rounds_done, signal_all, wait

from flower_kd import load_model, sim
from flower_kd.device import federation as federations
from flower_kd.device.federation import Federation

ROUNDS = 5
CONFIG: dict[str, object] = {
    "model": "mlp,lenet5", "image-size": 28, "strategy": "neighbor-kd", "baseline": "none",
    "local-steps": 60, "samples-per-node": 60, "reference-size": 60, "momentum": 0.9, "learning-rate": 0.02,
    "timeout": 120.0,
}  # fmt: skip


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[Devices]:
    with ExitStack() as processes:
        started = Devices(tmp_path, processes)
        yield started
        started.end()


def states(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("device-1/runs/*/*/round-*.safetensors")}


@pytest.mark.slow
def test_a_killed_supernode_goes_on_with_its_own_model(devices: Devices, tmp_path: Path) -> None:
    output_dir = tmp_path / "server" / "run"

    def kill_and_restart() -> None:
        wait(lambda: rounds_done(output_dir) >= 1)
        before = devices.received(1)
        wait(lambda: devices.received(1) > before)
        time.sleep(2)  # it starts Python, or trains
        devices.kill("supernode-1")
        assert "round-1.safetensors" in states(tmp_path)
        wait(lambda: rounds_done(output_dir) >= 2)  # the other goes on
        devices.start_supernode(1)

    output = devices.run(CONFIG | {"num-server-rounds": ROUNDS, "output-dir": str(output_dir)}, kill_and_restart)
    assert (output_dir / "summary.json").exists(), output
    assert "continues without node 1" in output
    assert "node 1 is back in round" in output
    assert "with its own weights of round" in output
    assert "Traceback" not in output
    history = pd.read_csv(output_dir / "history.csv")
    assert sorted(history[history["vertex"] == 0]["round"]) == list(range(1, ROUNDS + 1))
    accuracy = history[history["vertex"] == 1].set_index("round")["test-accuracy"].dropna()
    back = int(output.split("node 1 is back in round ")[1].split(",")[0])
    print(f"killed in round 2, back in round {back}; rounds that closed without it: {ROUNDS - len(accuracy)}")
    assert accuracy[back] > accuracy[1] - 0.05
    assert len(accuracy) < ROUNDS
    for vertex in range(NODES):
        assert load_model(tmp_path / f"device-{vertex}", vertex)
    assert not (output_dir / "models").exists()


@pytest.mark.slow
def test_a_killed_server_goes_on_at_its_round(devices: Devices, tmp_path: Path) -> None:
    """First the ServerApp is killed, then the SuperLink with it; figures are those of an uninterrupted run."""
    output_dir, rounds = tmp_path / "server" / "run", 3
    uninterrupted = CONFIG | {"num-server-rounds": rounds, "evaluate-every": rounds}
    config = uninterrupted | {"output-dir": str(output_dir), "resume": True}

    def kill_server_app() -> None:
        wait(lambda: rounds_done(output_dir) >= 1)
        devices.kill_server_app()

    def kill_superlink() -> None:
        wait(lambda: rounds_done(output_dir) >= 2)
        devices.kill("superlink")
        devices.start_superlink()

    devices.run(config, kill_server_app)
    assert not (output_dir / "summary.json").exists()
    devices.run(config, kill_superlink)
    assert not (output_dir / "summary.json").exists()
    output = devices.run(config)
    assert output.count("resuming after round") >= 1, output
    flower = json.loads((output_dir / "summary.json").read_text())
    here = sim.run(uninterrupted, NODES, tmp_path / "here")
    assert flower["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
    assert flower["bytes"] == here.bytes
    history = pd.read_csv(output_dir / "history.csv")
    assert len(history) == rounds * NODES
    assert not history.duplicated(["round", "vertex"]).any()


@pytest.mark.slow
def test_a_killed_node_with_a_key_goes_on_under_its_id(tmp_path: Path) -> None:
    """Flower lets it in again only when it has been silent for a minute."""
    folder, output_dir = tmp_path / "federation", tmp_path / "run"
    config = CONFIG | {"num-server-rounds": 16, "local-steps": 2000, "timeout": 30.0, "output-dir": str(output_dir)}
    try:
        federation = federations.up(folder, NODES, tls=True)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(federations.run, federation, config, log=tmp_path / "run.log")
            wait(lambda: rounds_done(output_dir) >= 2 or run.done())
            received = federation.log_of("node-1").read_text().count("Receiving: train")
            wait(lambda: federation.log_of("node-1").read_text().count("Receiving: train") > received or run.done())
            signal_all(federation.processes["node-1"].pid, signal.SIGKILL)
            again = federations.up(folder, NODES, tls=True)
            assert run.result() == output_dir
        log, output = again.log_of("node-1").read_text(), (tmp_path / "run.log").read_text()
    finally:
        federations.down(Federation.read(folder))
    first, second = re.findall(r"SuperNode ID: (\d+)", log)
    assert first == second
    assert "flower-kd: the SuperLink still counts this node as connected" in log
    assert "node 1 is back in round" in output
    assert "with its own weights of round" in output
    history = pd.read_csv(output_dir / "history.csv")
    accuracy = history[history["vertex"] == 1].set_index("round")["test-accuracy"].dropna()
    back = int(output.split("node 1 is back in round ")[1].split(",")[0])
    print(f"killed in round 3, back in round {back}")
    assert accuracy[back] > accuracy[2] - 0.05
