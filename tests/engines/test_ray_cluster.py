"""Flower's simulation engine over a Ray cluster of two nodes, as on two machines."""

import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import ROOT, as_run_config

from flower_kd import sim
from flower_kd.device import loopback
from flower_kd.device.loopback import environment, flwr_run, free_port, running

PATIENCE = 900.0
NODES = 4
CONFIG: dict[str, object] = {
    "strategy": "neighbor-kd", "baseline": "none", "num-server-rounds": 2, "local-steps": 4, "samples-per-node": 40,
    "reference-size": 60,
}  # fmt: skip


def parents_of_actors() -> set[str]:
    """Return the ids of the processes (one per Ray node) that started those in which clients run."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ClientAppActor" in (process / "cmdline").read_bytes():
                found.add((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it is gone
            continue
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Return the address of a cluster of two nodes with a CPU each."""
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    # Ray notes the cluster in its folder, and every later run of this user would wait for it.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path: it has sockets
    env = environment(tmp_path / "ray") | {"RAY_TMPDIR": folder}
    common = ["--num-cpus", "1", "--object-store-memory", "100000000", "--disable-usage-stats", "--block"]
    head = ["--head", "--node-ip-address", "127.0.0.1", "--port", port, "--include-dashboard", "false"]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(running(["ray", "start", *head, *common], env, tmp_path / "head.log"))
        wait_for(tmp_path / "head.log")
        stack.enter_context(running(["ray", "start", "--address", address, *common], env, tmp_path / "other.log"))
        wait_for(tmp_path / "other.log")
        yield address


def wait_for(log: Path) -> None:
    started = threading.Event()
    for _ in range(int(PATIENCE * 10)):
        if "Ray runtime started" in log.read_text():
            return
        started.wait(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.slow  # Ray twice, and a run
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux only")
def test_clients_run_on_both_nodes_with_the_same_figures(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    before, seen, ended = parents_of_actors(), set(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            seen.update(parents_of_actors())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with loopback.simulation(tmp_path) as env:
            config = as_run_config({**CONFIG, "output-dir": str(tmp_path / "there")})
            options = (
                "--run-config",
                config,
                "--federation-config",
                f"num-supernodes={NODES} client-resources-num-cpus=1",
            )
            printed = flwr_run(ROOT, env, *options, timeout=PATIENCE)
    finally:
        ended.set()
        watching.join()
    assert (tmp_path / "there" / "summary.json").exists(), printed
    there = json.loads((tmp_path / "there" / "summary.json").read_text())
    here = sim.run(CONFIG, NODES, tmp_path / "here")
    assert there["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
    assert there["bytes"] == here.bytes
    assert len(seen - before) == 2
