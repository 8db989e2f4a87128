"""A federation with real processes, as `flower-kd federation` starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import as_run_config

from flower_kd import sim
from flower_kd.device import federation as federations
from flower_kd.device import keys, processes
from flower_kd.device.federation import Federation
from flower_kd.device.loopback import commands_first, environment, free_port
from flower_kd.device.options import NodeOptions
from flower_kd.device.superlink import connected

SHORT: dict[str, object] = {
    "strategy": "neighbor-kd", "baseline": "none", "num-server-rounds": 2, "local-steps": 4, "samples-per-node": 40,
    "reference-size": 60,
}  # fmt: skip
PATIENCE = 900.0  # seconds: a start takes 20, and ten times as many on a busy machine


def command(*words: str, status: int = 0) -> str:
    """Return what `flower-kd` prints."""
    done = subprocess.run([sys.executable, "-m", "flower_kd", *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of running processes that mention a folder."""
    lines = subprocess.run(["ps", "-eww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if str(folder) in line]


def test_up_run_status_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, private = tmp_path / "federation", tmp_path / "private"
    private.mkdir()
    monkeypatch.setenv("TMPDIR", str(private))  # where nodes make their private folders
    option = ("--folder", str(folder))
    try:
        assert "2 nodes are connected" in command("federation", "up", "--nodes", "2", "--tls", *option)
        assert len(list(private.glob("flower-kd-*/flwr-clientapp"))) == 2
        output = command("federation", "run", *option, "-c", as_run_config(SHORT))
        kept = Federation.read(folder)
        summary = json.loads((Path(kept.last_run) / "summary.json").read_text())
        here = sim.run(SHORT, 2, tmp_path / "here")
        assert summary["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
        assert summary["bytes"] == here.bytes
        assert f"results: {kept.last_run}" in output
        for vertex, node in enumerate(federations.status(kept)):
            assert (node.name, node.running, node.connection) == (f"node-{vertex}", True, "online")
            assert node.last_round == 2
            assert node.accuracy == pytest.approx(here.accuracy["per_node"][vertex])
            assert node.seen is not None
            assert node.seen < 120
            log = kept.log_of(node.name).read_text()
            assert log.count("Start `flwr-clientapp` process") == 3  # the handshake, and one message a round
            assert "flower-kd: " not in log  # no cold start
        pipelined = SHORT | {"pipeline": 1, "num-server-rounds": 4}
        command("federation", "run", *option, "-c", as_run_config(pipelined))
        summary = json.loads((Path(Federation.read(folder).last_run) / "summary.json").read_text())
        here = sim.run(pipelined, 2, tmp_path / "here-pipelined")
        assert summary["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
        assert summary["bytes"] == here.bytes
        assert command("federation", "status", *option).count("online") == 2
    finally:
        ended = command("federation", "down", *option)
    assert "ended: superlink, node-0, node-1" in ended
    assert processes_of(folder) == []
    assert list(private.glob("flower-kd-*")) == []
    assert "nothing was running" in command("federation", "down", *option)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federations.temporary(tmp_path_factory.mktemp("secured") / "federation", 1, tls=True) as federation:
        yield federation


def refused(federation: Federation, options: NodeOptions, log: Path) -> str:
    """Return what a SuperNode of Flower prints until it ends; it may not come online meanwhile."""
    env = environment(log.parent / "flwr")
    online = [node.connection for node in federations.status(federation)]
    with log.open("wb") as output:
        node = subprocess.Popen(
            [*options.supernode_command(free_port()), "--max-retries", "1"], env=env, stdout=output, stderr=output
        )
        try:
            node.wait(60)
        finally:
            node.kill()
            node.wait()
    assert node.returncode != 0
    assert [node.connection for node in federations.status(federation)] == online
    printed = log.read_text()
    assert "SuperNode ID" not in printed
    return printed


@pytest.mark.slow  # a federation, and a start of Flower for each
@pytest.mark.parametrize("mistake", ["key", "no key", "certificate", "plain text"])
def test_no_way_in(secured: Federation, tmp_path: Path, mistake: str) -> None:
    others = keys.make(tmp_path / "others", 1)
    right, key = secured.keys.authority, secured.keys.of_node(0)
    wrong, said = {
        "key": (NodeOptions(secured.address, 0, 1, root_certificates=right, private_key=others.of_node(0)), "code"),
        "no key": (NodeOptions(secured.address, 0, 1, root_certificates=right), "code"),
        "certificate": (
            NodeOptions(secured.address, 0, 1, root_certificates=others.authority, private_key=key),
            "CERTIFICATE_VERIFY_FAILED",
        ),
        "plain text": (NodeOptions(secured.address, 0, 1, insecure=True), "Failed to initialize the connection"),
    }[mistake]
    assert said in refused(secured, wrong, tmp_path / "log")


@pytest.mark.slow  # two starts of a federation
def test_a_federation_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "federation"
    try:
        first = federations.up(folder, 2, tls=True)
        os.kill(first.processes["node-1"].pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len([line for line in processes_of(folder) if "flower-supernode" in line]) != 1:
            assert time.monotonic() < deadline  # its SuperNode ends with it
            time.sleep(0.1)
        assert [node.running for node in federations.status(first)] == [True, False]
        again = federations.up(folder, 2, tls=True)
        same = [name for name, identity in again.processes.items() if identity == first.processes.get(name)]
        assert same == ["superlink", "node-0"]
        federations.down(again)
        assert processes_of(folder) == []
        federations.up(folder, 2, tls=True)  # nodes are registered once
        assert [node.connection for node in federations.status(Federation.read(folder))] == ["online", "online"]
        with pytest.raises(ValueError, match="has a federation of 2 nodes with TLS"):
            federations.up(folder, 3, tls=True)
    finally:
        federations.down(Federation.read(folder))
    assert processes_of(folder) == []


def interrupted_run(folder: Path) -> str:
    """Return what `flower-kd federation run` says of a run that it leaves after its first round."""
    config = as_run_config({**SHORT, "strategy": "silo", "num-server-rounds": 1000})
    with (folder.parent / "run.log").open("wb") as output:
        command = [sys.executable, "-m", "flower_kd", "federation", "run", "--folder", str(folder), "-c", config]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while "[ROUND 1/" not in (printed := (folder.parent / "run.log").read_text()):
        assert process.poll() is None, printed
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    assert process.wait(60) == 130
    return (folder.parent / "run.log").read_text()


@pytest.mark.slow  # a federation, and two runs
def test_a_run_goes_on_without_its_log_until_it_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "federation"
    with federations.temporary(folder, 2, tls=False) as federation:
        said = interrupted_run(folder).splitlines()[-1]
        with connected(federation.address, federation.certificate) as superlink:
            (run,) = superlink.unfinished_runs()
            sentence, _, stop = said.partition("; to stop it: ")
            assert sentence == f"flower-kd: interrupted; run {run} goes on"
            subprocess.run(stop, shell=True, check=True, timeout=PATIENCE, env=commands_first(os.environ))
            assert superlink.unfinished_runs() == []
        deadline = time.monotonic() + 60
        while pids_of_serverapps(folder):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        interrupted_run(folder)
        (serverapp,) = pids_of_serverapps(folder)
        os.kill(serverapp, signal.SIGSTOP)  # it notices late that the SuperLink is gone
        os.kill(federation.processes["superlink"].pid, signal.SIGKILL)
        time.sleep(5)
        assert str(serverapp) in command("federation", "status", "--folder", str(folder))
        assert f"process {serverapp}" in federations.down(federation)
        assert pids_of_serverapps(folder) == []
    assert processes_of(folder) == []


def pids_of_serverapps(folder: Path) -> list[int]:
    found = processes.with_variable(federations.MARK, str(folder))
    return [each.pid for each in found if b"flwr-serverapp" in Path(f"/proc/{each.pid}/cmdline").read_bytes()]


@pytest.mark.slow  # a start of Flower for each message
def test_without_a_warm_process_the_run_has_the_same_figures(tmp_path: Path) -> None:
    with federations.temporary(tmp_path / "federation", 2, tls=False, cold=True) as federation:
        results = federations.run(federation, SHORT)
    summary = json.loads((results / "summary.json").read_text())
    here = sim.run(SHORT, 2, tmp_path / "here")
    assert summary["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
