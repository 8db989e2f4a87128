"""A device's own folder: what is kept there, and what happens when the device fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import networkx as nx
import pytest
import torch
from conftest import build_blob_node, build_same_model_node
from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from safetensors.torch import load_file

from flower_kd import folders, load_card, load_model
from flower_kd.clients import make_client_app
from flower_kd.clients.node_files import NodeFiles
from flower_kd.clients.state import LiveState
from flower_kd.clients.state_dir import KEPT_RUNS, DeviceFiles, StateDir
from flower_kd.errors import InputError
from flower_kd.models.card import ModelCard, Score
from flower_kd.protocol import ALONE, Greeting
from flower_kd.sim import InProcessGrid
from flower_kd.sim.grids import RUN_ID
from flower_kd.strategies import DSGD, GraphStrategy, NeighborKD, Network

CARD = ModelCard("my:net", 3, (1, 2, 3), (0.5,), (1.0,), ("a", "b", "c"))
RUN = 7  # Flower's id of a run


def greeting(token: str, stage: str = "neighbor-kd", **more: Any) -> Greeting:
    return Greeting(token=token, stage=stage, **more)


def node_of(value: float):
    node = build_blob_node(Context(1, 5, {"partition-id": 0}, RecordDict(), {}))
    node.card = CARD
    with torch.no_grad():
        node.model[0].bias.fill_(value)
    return node


def rounds(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}


def test_states_of_the_last_runs_are_kept_and_never_mixed(tmp_path: Path) -> None:
    for number in range(1, 6):
        home = StateDir(tmp_path, 2, "cam-3")
        home.claim(greeting(f"run{number}"), RUN)
        files = home.files(greeting(f"run{number}"), RUN)
        for server_round in (1, 2, 3, 4):
            files.save(node_of(10 * number + server_round), server_round, 5 * server_round)
    kept = {f"runs/{n}-run{n}/neighbor-kd/round-{r}.safetensors" for n in range(6 - KEPT_RUNS, 6) for r in (2, 3, 4)}
    assert rounds(tmp_path) == kept | {"models/node-2.safetensors"}
    node = node_of(0.0)
    assert StateDir(tmp_path, 2, "cam-3").files(greeting("run4"), RUN).load(node, 9) == 4
    assert node.model[0].bias[0] == 44
    assert StateDir(tmp_path, 2, "cam-3").files(greeting("run4"), RUN).position() == (4, 20)
    assert StateDir(tmp_path, 2, "cam-3").files(greeting("run4", "silo"), RUN).load(node, 9) == 0
    # The run that is resumed is the current one, however old it is.
    home = StateDir(tmp_path, 2, "cam-3")
    home.claim(greeting("run3", fresh=False, server_round=3), RUN + 1)
    assert home.current(RUN) is None
    assert StateDir(tmp_path, 2, "cam-3").current(RUN + 1).token == "run3"
    assert home.files(greeting("run3"), RUN + 1).load(node_of(0.0), 9) == 3


def test_a_run_that_begins_anew_forgets_its_first_attempt(tmp_path: Path) -> None:
    for _ in range(2):
        home = StateDir(tmp_path, 0)
        home.claim(greeting(""), RUN)  # an app of one's own has no token
        files = home.files(greeting(""), RUN)
        assert files.position() is None
        for server_round in (1, 2):
            files.save(node_of(1.0), server_round)
            files.save_best(node_of(1.0), Score(server_round, 0.5, 1.0))
    assert len(list((tmp_path / "runs").iterdir())) == 1
    # The server was restored from a backup, too: rounds that it does not know are not the newest.
    home = StateDir(tmp_path, 0)
    home.claim(greeting("", fresh=False, server_round=1), RUN)
    assert home.files(greeting(""), RUN).position()[0] == 1


def test_the_model_of_the_last_round_can_be_used(tmp_path: Path) -> None:
    home = StateDir(tmp_path, 4, "cam-3")
    home.claim(greeting("a", ALONE), RUN)
    alone, files = (home.files(greeting("a", stage), RUN) for stage in (ALONE, "d-dist"))
    alone.save(node_of(9.0), 1)
    assert not (tmp_path / "models").exists()
    with pytest.raises(InputError, match="contains no model yet: its node has not finished a round"):
        load_model(tmp_path, "cam-3")
    for server_round, loss in ((1, 0.4), (2, 0.6)):
        files.save(node_of(server_round), server_round)
        if loss < 0.5:
            files.save_best(node_of(server_round), Score(server_round, 0.75, loss))
    models = tmp_path / "models"
    assert load_file(models / "node-4.safetensors")["0.bias"][0] == 2.0
    assert load_file(models / "node-4-best.safetensors")["0.bias"][0] == 1.0
    for name in ("cam-3", 4, "4"):
        assert load_card(tmp_path, name) == CARD
    assert "[best.4]\nround = 1\n" in (models / "model.toml").read_text()
    StateDir(tmp_path, 4, "cam-3").files(greeting("b"), RUN).save(node_of(5.0), 1)  # a run without validation
    assert {path.name for path in models.iterdir()} == {"model.toml", "node-4.safetensors"}
    assert "best" not in (models / "model.toml").read_text()
    with pytest.raises(InputError, match="has no best model of node cam-3"):
        load_model(tmp_path, "cam-3", best=True)


def test_what_is_written_without_what_follows_it_is_written_next_time(tmp_path: Path, monkeypatch) -> None:
    """Killed between the best weights and their score."""
    files = StateDir(tmp_path, 0).files(greeting("a"), RUN)
    files.save(node_of(1.0), 1)
    replace_file = folders.replace_file

    def killed(path: Path, content: bytes, **options: bool) -> None:
        if path.name == "model.toml":
            raise KeyboardInterrupt
        replace_file(path, content, **options)

    monkeypatch.setattr(folders, "replace_file", killed)
    with pytest.raises(KeyboardInterrupt):
        files.save_best(node_of(1.0), Score(1, 0.5, 0.25))
    monkeypatch.undo()
    assert "best" not in (tmp_path / "models" / "model.toml").read_text()
    files.save(node_of(2.0), 2)
    assert "[best.0]\nround = 1\n" in (tmp_path / "models" / "model.toml").read_text()
    assert load_file(tmp_path / "models" / "node-0-best.safetensors")["0.bias"][0] == 1.0


WRITER = """
    import os, random, shutil, signal, sys, time
    from pathlib import Path
    import torch
    from safetensors.torch import load_file
    from flower_kd.clients.state_dir import StateDir
    from flower_kd.models.card import ModelCard, Score
    from flower_kd.protocol import Greeting
    sys.path.insert(0, sys.argv[2])
    from test_state_dir import files_of, node_of

    def write_on(server_round: int) -> None:
        node = node_of(0.0)
        while True:
            server_round += 1
            with torch.no_grad():
                for tensor in node.model.parameters():
                    tensor.fill_(server_round)
            node.memory = {"base.w": torch.full((50_000,), float(server_round)).numpy()}
            files.save(node, server_round, 2 * server_round)
            files.save_best(node, Score(server_round, 0.5, 1 / server_round))

    folder = Path(sys.argv[1])
    files, last, random = files_of(folder), 0, random.Random(0)
    a_round = 1.0
    for server_round in range(1, 9):
        began = time.monotonic()
        files.save(node_of(server_round), server_round)
        files.save_best(node_of(server_round), Score(server_round, 0.5, 1 / server_round))
        a_round = min(a_round, time.monotonic() - began)
    shutil.rmtree(folder / "runs")
    shutil.rmtree(folder / "models")
    found = []
    for kill in range(1000):
        if kill >= 60 and len({last for last, _ in found}) > 10 and any(partial for _, partial in found):
            break  # on a busy machine, many are killed before they write
        child = os.fork()
        if child == 0:
            write_on(last)
        time.sleep(random.uniform(0, 4 * a_round))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        files, node, before = files_of(folder), node_of(0.0), last
        last, step = files.position() or (0, 0)
        assert last >= before and step == 2 * last
        if last:
            assert files.load(node, 10**9) == last
            values = torch.cat([p.detach().reshape(-1) for p in node.model.parameters()])
            assert (values == last).all() and (node.memory["base.w"] == last).all()
        for path in folder.rglob("*.safetensors"):  # each is of one round
            tensors = load_file(path)
            values = torch.cat([tensor.reshape(-1) for tensor in tensors.values()]).unique()
            assert len(values) == 1, (path, values)
        partial = len(list(folder.rglob("*.partial")))
        found.append((last, partial))
        print(last, partial, flush=True)
"""


def files_of(folder: Path) -> DeviceFiles:
    """Return the files of a node that has begun to train in a run."""
    home = StateDir(folder, 0)
    home.claim(greeting("a", fresh=False, server_round=10**9), RUN)
    return home.files(greeting("a"), RUN)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """Return a folder in memory, where there is one: disks may take long to confirm that a file is there."""
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


def test_a_killed_writer_leaves_a_whole_state(in_memory: Path) -> None:
    script = [sys.executable, "-c", textwrap.dedent(WRITER), str(in_memory), str(Path(__file__).parent)]
    here = str(Path(__file__).parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(script, capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 0, done.stderr
    found = [[int(number) for number in line.split()] for line in done.stdout.splitlines()]
    assert len(found) >= 60
    assert len({last for last, _ in found}) > 10  # it went on after each kill
    assert any(partial for _, partial in found)  # and some kills came while it wrote
    assert max(partial for _, partial in found) <= 3  # each start removes what the one before left


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 256 kB; without the right to mount one, processes are limited instead."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_state_whole(small_disk: Path) -> None:
    files, node = files_of(small_disk), node_of(1.0)
    files.save(node, 1, 5)
    (small_disk / "photos").write_bytes(bytes(200_000))
    node.memory = {"base.w": torch.zeros(100_000).numpy()}
    with pytest.raises(OSError, match="No space left on device"):
        files.save(node, 2, 10)
    assert not list(small_disk.rglob("*.partial"))
    assert files_of(small_disk).position() == (1, 5)
    assert load_file(small_disk / "models" / "node-0.safetensors")["0.bias"][0] == 1.0
    (small_disk / "photos").unlink()
    node.memory = {}
    files.save(node, 3, 15)
    assert files_of(small_disk).position() == (3, 15)


class Devices(InProcessGrid):
    """Four nodes with folders of their own, which can be killed while they handle a message.

    `kills` has, by vertex, type of message and round, what is done with the node; its reply is lost.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(make_client_app(build_blob_node), 4, {})
        self.folder = folder
        self.kills: dict[tuple[int, str, int], Callable[[Devices, Message], None]] = {}
        for vertex, context in enumerate(self.contexts.values()):
            (folder / str(vertex)).mkdir(parents=True)
            context.node_config["state-dir"] = str(folder / str(vertex))

    def _call(self, message: Message) -> Message:
        node, config = message.metadata.dst_node_id, message.content["config"]
        if node not in self.contexts:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "the node is not there"), reply_to=message)
        vertex = self.contexts[node].node_config["partition-id"]
        kill = self.kills.pop((vertex, message.metadata.message_type, config.get("server-round", 0)), None)
        if kill is None:
            return super()._call(message)
        kill(self, message)
        return Message(Error(ErrorCode.NODE_UNAVAILABLE, "the node is gone"), reply_to=message)

    def restart(self, node: int, new_id: int) -> None:
        """Forget all that a node has in memory, and set the clock of its machine wrong."""
        context = self.contexts.pop(node)
        context.node_id, context.state = new_id or node, LiveState()
        self.contexts[context.node_id] = context
        for number, path in enumerate(sorted(self.folder.rglob("*"))):
            os.utime(path, times=(4e9 - 1e7 * number,) * 2)


def killed(new_id: int, *, after_writing: bool) -> Callable[[Devices, Message], None]:
    """Return what kills a node before it trains, or when it is about to reply; with a new id if there is one."""

    def kill(grid: Devices, message: Message) -> None:
        node = message.metadata.dst_node_id
        if after_writing:
            grid.client_app(message, grid.contexts[node])
        grid.restart(node, new_id)

    return kill


def start(strategy: GraphStrategy, grid: Devices, num_rounds: int) -> Network:
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=num_rounds)
    return network


def warnings(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


@pytest.mark.parametrize("new_id", [0, 4242])
@pytest.mark.parametrize("after_writing", [False, True])
def test_a_killed_device_goes_on_from_its_last_round(
    new_id: int, after_writing: bool, tmp_path: Path, ring: nx.Graph, caplog
) -> None:
    grid = Devices(tmp_path)
    grid.kills[1, "train", 3] = killed(new_id, after_writing=after_writing)
    network = start(NeighborKD(ring, local_steps=2), grid, 6)
    how = f"of round {3 if after_writing else 2}"
    if after_writing and not new_id:  # it has missed nothing, and is not even greeted
        how = "(last reply in round 2)"
    assert warnings(caplog, "node 1 is back") == [f"node 1 is back in round 4, with its own weights {how}"]
    assert not warnings(caplog, "older state")
    assert [network.participation[vertex].taken for vertex in range(4)] == [6, 5, 6, 6]
    accuracy = {r: network.metrics[r, 1].values["test-accuracy"] for r in (2, 4, 5, 6)}
    assert min(accuracy[4], accuracy[5]) > accuracy[2] - 0.03
    position = StateDir(tmp_path / "1", 1).files(network.greeting, RUN_ID).position()
    assert position == (6, 12)


def test_a_device_killed_in_its_first_round_begins_again(tmp_path: Path, ring: nx.Graph, caplog) -> None:
    grid = Devices(tmp_path)
    grid.kills[1, "train", 1] = killed(0, after_writing=False)
    network = start(NeighborKD(ring, local_steps=2), grid, 3)
    assert warnings(caplog, "node 1 is back") == ["node 1 is back in round 2, with fresh weights"]
    assert network.participation[1].taken == 2


def test_a_device_restored_from_a_backup_is_named_and_gets_its_mixed_weights(
    tmp_path: Path, caplog, monkeypatch
) -> None:
    ring = nx.cycle_graph(4)
    grid = Devices(tmp_path)
    grid.client_app = make_client_app(build_same_model_node)

    def back_up(grid: Devices, message: Message) -> None:
        shutil.copytree(tmp_path / "1", tmp_path / "backup")
        killed(0, after_writing=False)(grid, message)

    def restore(grid: Devices, message: Message) -> None:
        shutil.rmtree(tmp_path / "1")
        (tmp_path / "backup").rename(tmp_path / "1")
        killed(0, after_writing=False)(grid, message)

    grid.kills[1, "evaluate", 1], grid.kills[1, "train", 3] = back_up, restore
    strategy = DSGD(ring, local_steps=2)
    sent: list[dict[str, ArrayRecord]] = []
    returned = strategy.node_returned
    monkeypatch.setattr(strategy, "node_returned", lambda *who: (returned(*who), sent.append(strategy.payload(1))))
    network = start(strategy, grid, 5)
    assert warnings(caplog, "older") == [
        "node 1 returns with an older state, of round 1 instead of 2: a backup, or a full disk"
    ]
    assert ["arrays" in records for records in sent] == [True]
    assert network.participation[1].taken == 4
    assert network.saved_rounds.tolist() == [5] * 4


def test_two_devices_with_one_name_are_never_mixed(tmp_path: Path, ring: nx.Graph, caplog) -> None:
    grid = Devices(tmp_path)

    def clone(grid: Devices, message: Message) -> None:
        """Vertex 2 is away, so that the server looks for new nodes; a clone of vertex 1 is there."""
        config = next(c.node_config for c in grid.contexts.values() if c.node_config["partition-id"] == 1)
        grid.contexts[777] = Context(RUN_ID, 777, dict(config), LiveState(), {})

    grid.kills[2, "train", 2] = clone
    messages: list[str] = []
    app = grid.client_app

    def noted(message: Message, context: Context) -> Message:
        if context.node_id == 777:
            messages.append(message.metadata.message_type)
        return app(message, context)

    grid.client_app = noted
    network = start(NeighborKD(ring, local_steps=2), grid, 4)
    assert messages == ["query.join"]
    [line] = warnings(caplog, "a node that joined late is not used")
    assert line.endswith("two nodes both claim vertex 1: each needs a place of its own")
    assert network.participation[1].taken == 4


def test_a_run_goes_on_while_a_disk_is_full(tmp_path: Path, ring: nx.Graph, monkeypatch, caplog) -> None:
    grid, save = Devices(tmp_path), NodeFiles.save

    def full(files: NodeFiles, node: Any, server_round: int, next_step: int = 0) -> None:
        if files._folder.is_relative_to(tmp_path / "1") and server_round > 1:
            raise OSError(28, "No space left on device", str(files._folder))
        save(files, node, server_round, next_step)

    monkeypatch.setattr(NodeFiles, "save", full)
    strategy = NeighborKD(ring, local_steps=2)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=4)
    assert [network.participation[vertex].taken for vertex in range(4)] == [4] * 4
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 3
    assert errors[0].startswith("round 2 cannot be resumed: a node's state cannot be written: [Errno 28] No space left")
    assert {path.name for path in (tmp_path / "1").rglob("round-*")} == {"round-1.safetensors"}
    assert {path.name for path in (tmp_path / "2").rglob("round-*")} == {f"round-{r}.safetensors" for r in (2, 3, 4)}


def test_a_run_goes_on_while_a_disk_is_not_there(tmp_path: Path, ring: nx.Graph, monkeypatch, caplog) -> None:
    grid, folder, save = Devices(tmp_path), tmp_path / "1", NodeFiles.save

    def unmounted_after_round_1(files: NodeFiles, *arguments: Any) -> None:
        save(files, *arguments)
        if files._folder.is_relative_to(folder):
            folder.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(NodeFiles, "save", unmounted_after_round_1)
    network = start(NeighborKD(ring, local_steps=2), grid, 3)
    assert network.participation[1].taken == 3
    [*errors] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    sentence = f"a node's state cannot be written: state-dir '{folder}' does not exist: create the folder, or mount its"
    assert [error.partition(" cannot be resumed: ")[2].startswith(sentence) for error in errors] == [True, True]


def context_of(folder: object, **config: Any) -> Context:
    node_config = {"partition-id": 0, "num-partitions": 2, "state-dir": folder} | config
    return Context(1, 5, node_config, RecordDict(), {})


def hello(context: Context) -> dict[str, Any]:
    InProcessGrid(make_client_app(build_blob_node), 1, {})  # sets up the sender for Flower
    message = Message(RecordDict({"config": Greeting().to_record()}), dst_node_id=5, message_type="query.join")
    return dict(make_client_app(build_blob_node)(message, context).content["hello"])


def test_a_folder_that_cannot_be_used_is_one_sentence_in_the_handshake(tmp_path: Path, monkeypatch) -> None:
    def error(folder: object, **config: Any) -> str:
        return hello(context_of(folder, **config))["error"]

    missing, file, taken = tmp_path / "none", tmp_path / "file", tmp_path / "taken"
    file.write_text("")
    (taken / "models").mkdir(parents=True)
    assert error(str(missing)) == f"state-dir '{missing}' does not exist: create the folder, or mount its disk"
    assert error(str(file)) == f"state-dir '{file}' is not a folder"
    assert error(3) == "state-dir = 3 in the node config must be a folder"
    assert error(str(taken)).startswith(f"state-dir '{taken}' has 'models', which no node wrote there: choose another")
    inside = str(tmp_path / "taken" / "models")
    assert error(inside, **{"data-dir": str(tmp_path)}) == (
        f"state-dir '{inside}' is inside data-dir '{tmp_path}': choose another folder"
    )
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert error(str(tmp_path)) == f"state-dir '{tmp_path}' cannot be written: no permission, or a read-only disk"
    monkeypatch.undo()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / folders.NODE_MARKER).write_text("{")
    assert "/torn/.flower-kd-node.json' cannot be read: Expecting property name" in error(str(tmp_path / "torn"))


def test_each_node_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    StateDir(tmp_path, 0, "cam-1").claim(greeting("a"), RUN)
    assert "error" not in hello(context_of(str(tmp_path), name="cam-1"))
    assert hello(context_of(str(tmp_path), name="cam-2"))["error"] == (
        f"state-dir '{tmp_path}' belongs to node 'cam-1', not to node 'cam-2': each node needs a folder of its own"
    )


def test_a_node_that_only_asks_to_join_changes_nothing(tmp_path: Path) -> None:
    files_of(tmp_path).save(node_of(1.0), 1, 5)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert hello(context_of(str(tmp_path)))["vertex"] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
