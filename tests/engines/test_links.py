"""Links that are slow, drop, or fall silent, between real processes: `pytest -m slow tests/engines/test_links.py`."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
from devices import NODES, Devices, rounds_done, wait
from lossy_link import LossyLink, why_not

from flower_kd import sim

pytestmark = pytest.mark.slow
TIMEOUT = 40.0  # seconds: twice what a round takes on a busy machine
CONFIG: dict[str, object] = {
    "strategy": "neighbor-kd", "baseline": "none", "local-steps": 20, "samples-per-node": 60, "reference-size": 60,
    "momentum": 0.9, "learning-rate": 0.02, "timeout": TIMEOUT,
}  # fmt: skip


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    with ExitStack() as processes:
        started = Devices(tmp_path_factory.mktemp("devices"), processes, warm=True)
        yield started
        started.end()


def train_rounds(history: pd.DataFrame, vertex: int) -> list[int]:
    """Return the rounds in which what a node trained was used."""
    return history[(history["vertex"] == vertex) & history["train-loss"].notna()]["round"].tolist()


def back_in(output: str) -> int:
    """Return the round in which node 1 was back."""
    return int(output.split("node 1 is back in round ")[1].split(",")[0])


def test_a_slow_device_is_not_waited_for_and_its_late_answer_is_not_used(devices: Devices, tmp_path: Path) -> None:
    def hold_up() -> None:
        wait(lambda: rounds_done(tmp_path / "run") >= 1)
        before = devices.received(1)
        wait(lambda: devices.received(1) > before)
        devices.signal("supernode-1", signal.SIGSTOP)
        wait(lambda: rounds_done(tmp_path / "run") >= 2)
        devices.signal("supernode-1", signal.SIGCONT)

    output = devices.run(CONFIG | {"num-server-rounds": 6, "output-dir": str(tmp_path / "run")}, hold_up)
    assert "round 2 continues without node 1: no reply in time (timeout = 40 s)" in output
    assert "Traceback" not in output
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    back = back_in(output)
    taken = [1, *range(back, 7)]
    assert train_rounds(history, 0) == list(range(1, 7))
    assert train_rounds(history, 1) == taken
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["participation"][1]["taken"] == len(taken)
    # Node 0 learns from what node 1 said in the round before: nothing, while that was late.
    distilled = history[history["vertex"] == 0].set_index("round")["kd-loss"] > 0
    assert distilled[distilled].index.tolist() == [round_ + 1 for round_ in taken if round_ < 6]


@pytest.mark.parametrize("silent", [False, True], ids=["closed", "silent"])
def test_a_node_is_back_when_its_link_is(devices: Devices, tmp_path: Path, *, silent: bool) -> None:
    rounds, link = 12, devices.links[1]
    starts = devices.log_of("supernode-1").count("SuperNode ID")

    def drop() -> None:
        wait(lambda: rounds_done(tmp_path / "run") >= 2)
        (link.stall if silent else link.cut)()
        wait(lambda: rounds_done(tmp_path / "run") >= 5)
        link.mend()

    output = devices.run(CONFIG | {"num-server-rounds": rounds, "output-dir": str(tmp_path / "run")}, drop)
    assert (tmp_path / "run" / "summary.json").exists(), output
    assert "round 3 continues without node 1" in output
    assert "Traceback" not in output
    back = back_in(output)
    assert f"node 1 is back in round {back}, with its own weights" in output
    assert devices.log_of("supernode-1").count("SuperNode ID") == starts
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert train_rounds(history, 0) == list(range(1, rounds + 1))
    assert train_rounds(history, 1) == [1, 2, *range(back, rounds + 1)]
    accuracy = history[history["vertex"] == 1].set_index("round")["test-accuracy"]
    assert accuracy[back] > accuracy[2] - 0.05


def test_a_link_that_falls_silent_in_the_middle_of_a_reply_ends_one_round_late(
    devices: Devices, tmp_path: Path
) -> None:
    """Flower waits up to 180 s for the rest of a reply that has begun, whatever the run's timeout."""
    rounds, link = 8, devices.links[1]
    seconds: list[float] = []

    def drop() -> None:
        wait(lambda: rounds_done(tmp_path / "run") >= 2)
        link.stall_after(b"POST /v1/fleet/push-object")
        wait(lambda: link.stalled)
        stalled = time.monotonic()
        wait(lambda: rounds_done(tmp_path / "run") >= 3)
        seconds.append(time.monotonic() - stalled)
        link.mend()

    output = devices.run(CONFIG | {"num-server-rounds": rounds, "output-dir": str(tmp_path / "run")}, drop)
    assert "Traceback" not in output
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert train_rounds(history, 0) == list(range(1, rounds + 1))
    print(f"the round took {seconds} s; node 1 took part in {train_rounds(history, 1)}")
    assert seconds[0] < 300
    assert train_rounds(history, 1)[-1] == rounds


def run_as_in_process(devices: Devices, folder: Path) -> float:
    """Run a few rounds, whose figures must be those in process, and return the seconds of one."""
    config = CONFIG | {"num-server-rounds": 4, "timeout": 120.0}
    output = devices.run(config | {"output-dir": str(folder / "devices")})
    assert "continues without" not in output
    summary = json.loads((folder / "devices" / "summary.json").read_text())
    here = sim.run(config, NODES, folder / "here")
    assert summary["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
    assert summary["bytes"] == here.bytes
    return float(summary["seconds"]["per_round"])


def test_a_delay_changes_nothing_but_the_time(devices: Devices, tmp_path: Path) -> None:
    """200 ms in each direction, through relays: nothing is lost, and it works on every machine."""
    seconds = {}
    for delay in (0.2, 0.0):
        for link in devices.links:
            link.delay = delay
        seconds[delay] = run_as_in_process(devices, tmp_path / str(delay))
    print(f"seconds a round by delay: {seconds}")
    assert seconds[0.0] < seconds[0.2] < seconds[0.0] + 30


def test_delay_and_loss_change_nothing_but_the_time(tmp_path: Path) -> None:
    """200 ms and 1% of the packets, in each direction, below TCP."""
    if reason := why_not():
        pytest.skip(reason)
    seconds = {}
    for delay, loss in ((0.0, 0.0), (0.2, 0.01)):
        folder = tmp_path / f"{delay}-{loss}"
        folder.mkdir()
        with ExitStack() as processes:
            link = processes.enter_context(LossyLink(delay, loss))
            devices = Devices(folder, processes, warm=True, between=link)
            seconds[delay, loss] = run_as_in_process(devices, folder)
            devices.end()
        assert (link.lost > 0) == (loss > 0)
        print(f"{link.packets} packets of {link.bytes} bytes from and to the server, {link.lost} lost")
    print(f"seconds a round by delay and loss: {seconds}")
