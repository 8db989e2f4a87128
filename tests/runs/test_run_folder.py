"""Runs resumed after their process was killed, and folders that two processes write to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from flower_kd import sim
from flower_kd.errors import InputError
from flower_kd.runs import results
from flower_kd.sim import preload

SHORT: dict[str, Any] = {
    "num-server-rounds": 4, "local-steps": 4, "samples-per-node": 20, "reference-size": 40, "model": "mlp",
    "momentum": 0.9, "evaluate-every": 2,
}  # fmt: skip
NODES = 3


class Kills:
    """A listener that kills its process in a round of a stage."""

    def __init__(self, *where: object) -> None:
        self.where = where
        self.stage = ""

    def on_stage(self, stage: str) -> None:
        self.stage = stage

    def on_exchange(self, server_round: int, kind: str, metrics: dict) -> None:
        if (self.stage, server_round, kind) == self.where:
            os.kill(os.getpid(), signal.SIGKILL)


class Interrupts:
    """A listener that ends a run in its third round."""

    def on_stage(self, stage: str) -> None:
        pass

    def on_exchange(self, server_round: int, kind: str, metrics: dict) -> None:
        if server_round == 3:
            raise KeyboardInterrupt


def killed(config: dict[str, Any], folder: Path, where: tuple[str, int, str]) -> None:
    """Run in a process that is killed midway; not a fork of this one, in which autograd may have threads."""
    process = preload.context(["flower_kd.server_app", "flower_kd.client_app"]).Process(
        target=run_with_kills, args=(config, folder, where)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def run_with_kills(config: dict[str, Any], folder: Path, where: tuple[str, int, str]) -> None:
    sim.run(config, NODES, folder, listener=Kills(*where))


@pytest.mark.parametrize(
    ("strategy", "stage", "server_round", "kind", "more"),
    [
        ("silo", "silo", 3, "train", {}),
        ("fedavg", "fedavg", 3, "train", {}),
        ("d-sgd", "d-sgd", 3, "train", {"exchange-every": 2}),
        ("neighbor-kd", "neighbor-kd", 4, "train", {"pooling": "pairwise"}),
        ("neighbor-kd", "neighbor-kd", 3, "train", {"pooling": "class-share", "baseline": "silo"}),
        ("d-dist", "d-dist", 2, "evaluate", {"consensus": "tracking", "baseline": "silo"}),
        ("d-dist", "alone", 3, "train", {"exchange-every": 1, "exchange-rows": 10, "reference-batch": 0}),
    ],
)
def test_a_resumed_run_has_the_figures_of_an_uninterrupted_one(
    strategy: str, stage: str, server_round: int, kind: str, more: dict[str, Any], tmp_path: Path
) -> None:
    config = SHORT | {"strategy": strategy, "baseline": "silo" if stage == "alone" else "none"} | more
    expected = sim.run(config, NODES, tmp_path / "whole")
    killed(config, tmp_path / "run", (stage, server_round, kind))
    assert (tmp_path / "run" / "checkpoint" / stage).is_dir()
    history = (tmp_path / "run" / ("history-silo.csv" if stage == "alone" else "history.csv")).read_text()
    assert f"\n{server_round - 1},0," in history
    found = sim.run(config | {"resume": True}, NODES, tmp_path / "run")
    assert found.accuracy == expected.accuracy
    assert found.bytes == expected.bytes
    assert found.participation == expected.participation
    assert found.baseline == expected.baseline
    whole, resumed = (results.read(tmp_path / name).history.drop(columns="seconds") for name in ("whole", "run"))
    assert resumed.equals(whole)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_workers_keep_the_states_of_their_nodes(tmp_path: Path) -> None:
    config = SHORT | {"strategy": "neighbor-kd", "baseline": "none"}
    expected = sim.run(config, NODES, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        sim.run(config, NODES, tmp_path / "run", workers=2, listener=Interrupts())
    assert sim.run(config | {"resume": True}, NODES, tmp_path / "run").accuracy == expected.accuracy


def test_a_run_that_cannot_be_resumed_says_why_and_stays_as_it_is(tmp_path: Path) -> None:
    config = SHORT | {"strategy": "neighbor-kd", "baseline": "none"}
    killed(config, tmp_path, ("neighbor-kd", 3, "train"))
    with pytest.raises(InputError, match=r"contains another run, which cannot be resumed with temperature = 3\.0"):
        sim.run(config | {"resume": True, "temperature": 3.0}, NODES, tmp_path)
    with pytest.raises(
        InputError, match="contains another run, which cannot be resumed with another number of nodes or a changed file"
    ):
        sim.run(config | {"resume": True}, NODES + 1, tmp_path)
    states = list((tmp_path / "checkpoint" / "neighbor-kd" / "node-1").iterdir())
    assert {path.name for path in states} == {f"round-{number}.safetensors" for number in (1, 2, 3)}
    state = tmp_path / "checkpoint" / "neighbor-kd" / "node-1" / "round-2.safetensors"
    content = state.read_bytes()
    state.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"node 1 cannot take part: its state '.*round-2.safetensors' cannot be read"):
        sim.run(config | {"resume": True}, NODES, tmp_path)
    state.unlink()
    with pytest.raises(InputError, match="node 1 saved its state in round 2, but found only that of round 1"):
        sim.run(config | {"resume": True}, NODES, tmp_path)
    state.write_bytes(content)
    server = tmp_path / "checkpoint" / "server.safetensors"
    server_content = server.read_bytes()
    server.write_bytes(server_content[:100])
    with pytest.raises(InputError, match=r"checkpoint '.*server.safetensors' is damaged"):
        sim.run(config | {"resume": True}, NODES, tmp_path)
    server.write_bytes(server_content)
    assert sim.run(config | {"resume": True}, NODES, tmp_path).rounds == 4


def test_an_edited_graph_is_another_run_and_the_old_one_keeps_its_picture(tmp_path: Path) -> None:
    graph = tmp_path / "graph.txt"
    graph.write_text("a b\nb c\n")
    config = SHORT | {"strategy": "neighbor-kd", "baseline": "none", "topology": str(graph)}
    sim.run(config, NODES, tmp_path / "run")
    graph.write_text("a b\na c\n")
    with pytest.raises(
        InputError, match="contains another run, which cannot be resumed with another number of nodes or a changed file"
    ):
        sim.run(config | {"resume": True}, NODES, tmp_path / "run")
    kept = results.read(tmp_path / "run").graph
    assert sorted(kept.edges) == [(0, 1), (1, 2)]
    assert nx.get_node_attributes(kept, "name") == {0: "a", 1: "b", 2: "c"}


@contextmanager
def locked_by_another(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have another process lock a folder, and kill it at the end of the block."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom flower_kd.folders import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sim.run(SHORT | {"strategy": "silo"}, NODES, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with locked_by_another(folder):
        for leave in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(InputError, match="is in use by another flower-kd process"):
                sim.run(SHORT | leave, NODES, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    # The other process was killed: its lock is gone.
    assert sim.run(SHORT | {"strategy": "silo", "overwrite": True}, NODES, folder).rounds == 4


def test_two_processes_that_begin_in_a_new_folder(tmp_path: Path) -> None:
    class Meanwhile:
        """Lets another process claim the folder during the handshake."""

        def on_stage(self, stage: str) -> None:
            locks.enter_context(locked_by_another(tmp_path / "run"))

        def on_exchange(self, server_round: int, kind: str, metrics: dict) -> None:
            raise AssertionError("something was trained")

    with ExitStack() as locks, pytest.raises(InputError, match="is in use by another flower-kd process"):
        sim.run(SHORT | {"strategy": "silo"}, NODES, tmp_path / "run", listener=Meanwhile())


def test_readers_never_see_a_partially_written_file(tmp_path: Path) -> None:
    contents = [bytes([65 + index]) * 200_000 for index in range(2)]
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom flower_kd import folders\n"
        "end = time.monotonic() + 1\n"
        "while time.monotonic() < end:\n"
        "    folders.write(Path(sys.argv[1]), {'file': sys.argv[2].encode() * 200_000})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), letter]) for letter in "AB"]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "file").exists():
            assert (tmp_path / "file").read_bytes() in contents
            reads += 1
        time.sleep(0.001)
    assert reads > 10
    assert all(writer.returncode == 0 for writer in writers)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_states_of_an_earlier_round_are_refused(tmp_path: Path) -> None:
    config = SHORT | {"strategy": "silo"}
    killed(config, tmp_path, ("silo", 4, "train"))
    node = tmp_path / "checkpoint" / "silo" / "node-2"
    for number in (2, 4):
        (node / f"round-{number}.safetensors").unlink()
    (node / "round-3.safetensors").rename(node / "round-1.safetensors")
    with pytest.raises(InputError, match="node 2 saved its state in round 3, but found only that of round 1"):
        sim.run(config | {"resume": True}, NODES, tmp_path)


def test_a_shortened_history_is_refused(tmp_path: Path) -> None:
    config = SHORT | {"strategy": "silo"}
    killed(config, tmp_path, ("silo", 4, "train"))
    lines = (tmp_path / "history.csv").read_text().splitlines(keepends=True)
    (tmp_path / "history.csv").write_text("".join(lines[:3]))
    with pytest.raises(InputError, match=r"history.csv. is damaged: it has"):
        sim.run(config | {"resume": True}, NODES, tmp_path)


def test_another_run_is_told_apart_by_name(tmp_path: Path) -> None:
    sim.run(SHORT | {"strategy": "silo"}, NODES, tmp_path)
    with pytest.raises(InputError, match=r"cannot be resumed with momentum = 0.5 \(it has 0.9\): choose another"):
        sim.run(SHORT | {"strategy": "silo", "momentum": 0.5, "resume": True}, NODES, tmp_path)
    with pytest.raises(InputError, match="another number of nodes or a changed file"):
        sim.run(SHORT | {"strategy": "silo", "resume": True}, NODES + 1, tmp_path)


def test_results_inside_the_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=f"is inside the data folder '{tmp_path / 'data'}': choose another folder"):
        sim.run(SHORT | {"dataset": str(tmp_path / "data")}, NODES, tmp_path / "data" / "out")
    assert not (tmp_path / "data" / "out").exists()


def test_a_resumed_run_keeps_its_own_graph(tmp_path: Path) -> None:
    config = SHORT | {"strategy": "neighbor-kd", "baseline": "none"}
    killed(config, tmp_path, ("neighbor-kd", 3, "train"))
    before = (tmp_path / "graph.graphml").read_text()
    (tmp_path / "graph.graphml").write_text(before.replace("<edge", "<!-- edge", 1))
    sim.run(config | {"resume": True}, NODES, tmp_path)
    assert (tmp_path / "graph.graphml").read_text() == before
