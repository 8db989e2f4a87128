import csv
import errno
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from conftest import drawn_pictures

from flower_kd import folders, sim
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.protocol import Hello
from flower_kd.report import run_table
from flower_kd.runs import results
from flower_kd.strategies.node_records import NodeMetrics, Traffic

NAMES = (".flower-kd.json", ".flower-kd.lock", "config.toml", "graph.graphml", "history.csv")
PICTURES = folders.picture_names("accuracy")
SHORT = {"num-server-rounds": 3, "local-steps": 2, "samples-per-node": 20, "reference-size": 40, "model": "mlp"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[sim.Summary, Path]:
    folder = tmp_path_factory.mktemp("results") / "run"
    with drawn_pictures():
        return sim.run(SHORT | {"strategy": "neighbor-kd", "evaluate-every": 2}, 4, folder), folder


def test_the_summary_is_that_of_the_contract(finished: tuple[sim.Summary, Path]) -> None:
    summary, folder = finished
    written = json.loads((folder / "summary.json").read_text())
    assert written["strategy"] == summary.strategy == "neighbor-kd"
    assert (written["num_nodes"], written["rounds"], written["seed"]) == (4, 3, 0)
    assert set(written["accuracy"]) == {"mean", "std", "per_node"}
    assert len(written["accuracy"]["per_node"]) == 4
    assert written["accuracy"]["mean"] == pytest.approx(sum(written["accuracy"]["per_node"]) / 4)
    sent = written["bytes"]
    assert {"total", "per_edge", "uplink_per_node"} <= set(sent)
    assert sent["messages_per_edge"] == 2  # of 3 exchanges: the last has no logits
    assert sent["per_message"] * 2 == pytest.approx(sent["per_edge"])
    assert sent["per_node"] == 2 * sent["per_edge"]  # a ring
    assert sent["d_sgd_same_frequency_per_edge"] == 2 * sent["d_sgd_per_message"]
    assert sent["d_sgd_per_edge"] == 6 * sent["d_sgd_per_message"]
    assert written["participation"] == [{"due": 3, "taken": 3, "reasons": {}}] * 4
    assert written["diverged"] == []
    assert 2 * 40 * 10 * 4 < written["bytes"]["per_edge"] < written["bytes"]["uplink_per_node"]
    assert 9 * written["bytes"]["uplink_per_node"] > written["bytes"]["total"]
    assert written["seconds"]["per_round"] == pytest.approx(written["seconds"]["total"] / 3)
    assert len(written["baseline"]["per_node"]) == 4


@pytest.mark.parametrize(
    ("strategy", "graph", "links"),
    [
        ("d-sgd", nx.star_graph(3), [3, 1, 1, 1]),
        ("neighbor-kd", nx.DiGraph([(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]), [2, 1, 1, 1]),
        ("fedavg", nx.star_graph(3), [1, 1, 1, 1]),
        ("silo", nx.star_graph(3), [0, 0, 0, 0]),
    ],
)
def test_what_a_node_sends_in_all_grows_with_its_degree(strategy: str, graph: nx.Graph, links: list[int]) -> None:
    shared, messages = np.array([100, 100, 100, 200]), np.array([1, 1, 1, 2])
    traffic = Traffic(shared, shared, shared, messages, shared * links, messages * links)
    hellos = {vertex: Hello(vertex, weights_bytes=400) for vertex in range(4)}
    record = results.RunRecord(RunConfig(strategy=strategy), graph, hellos, {}, traffic, 1.0)
    sent = results.summarize(record, None).bytes
    assert sent["per_node"] == (shared * links).mean()
    if strategy == "silo":
        assert (sent["messages_per_edge"], sent["per_edge"]) == (0, 0)
        return
    assert (sent["messages_per_edge"], sent["per_message"], sent["per_edge"]) == (1.25, 100.0, 125.0)
    assert sent["d_sgd_same_frequency_per_edge"] == 500.0


def test_the_table_separates_payload_and_frequency(finished: tuple[sim.Summary, Path]) -> None:
    sent = finished[0].bytes | {
        "messages_per_edge": 20.0, "per_message": 1000.0, "per_edge": 20_000.0, "per_node": 40_000.0,
        "d_sgd_per_message": 3000.0, "d_sgd_same_frequency_per_edge": 60_000.0, "d_sgd_per_edge": 1_500_000.0,
    }  # fmt: skip
    text = " ".join(run_table.text(replace(finished[0], bytes=sent)).split())
    assert "20 messages of 1.0 kB, 20.0 kB in total" in text
    assert "3.0 kB per message: 3.0 times as much at the same frequency, 75.0 times with one exchange per step" in text
    assert "over all its edges, if neighbors are linked directly: 40.0 kB" in text
    assert "note:" not in text
    to_server = " ".join(run_table.text(replace(finished[0], strategy="fedavg", bytes=sent)).split())
    assert "sent to the server: 20 messages" in to_server
    assert "linked directly" not in to_server


def test_the_history_has_a_row_a_node_a_round(finished: tuple[sim.Summary, Path]) -> None:
    summary, folder = finished
    for name in ("history.csv", "history-silo.csv"):
        rows = list(csv.DictReader((folder / name).open()))
        assert [(row["round"], row["vertex"]) for row in rows] == [
            (str(r), str(v)) for r in (1, 2, 3) for v in range(4)
        ]
        assert all(float(row["train-loss"]) > 0 for row in rows)
        assert [bool(row["test-accuracy"]) for row in rows] == [False] * 4 + [True] * 8
    last = [
        float(row["test-accuracy"]) for row in csv.DictReader((folder / "history.csv").open()) if row["round"] == "3"
    ]
    assert last == summary.accuracy["per_node"]


def test_the_config_can_be_run_again(finished: tuple[sim.Summary, Path], tmp_path: Path) -> None:
    summary, folder = finished
    config = tomllib.loads((folder / "config.toml").read_text())
    assert set(config) == set(RunConfig().to_dict())
    again = sim.run(config, 4, tmp_path / "again")
    assert again.accuracy == summary.accuracy
    assert again.bytes == summary.bytes
    assert again.baseline == summary.baseline


def test_the_table_of_a_large_network_is_cut(finished: tuple[sim.Summary, Path]) -> None:
    many = {"mean": 0.5, "std": 0.0, "per_node": [0.5] * 1000}
    summary = replace(finished[0], num_nodes=1000, accuracy=many, baseline=None, models=["mlp"] * 1000)
    text = run_table.text(summary)
    assert len(text.splitlines()) < 85
    assert "936 more" in text
    assert "more" not in run_table.text(finished[0])


def test_there_is_a_picture(finished: tuple[sim.Summary, Path]) -> None:
    assert (finished[1] / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert all((finished[1] / name).stat().st_size > 1000 for name in PICTURES)
    names = {path.name for path in finished[1].iterdir()}  # no partial file is left, no checkpoint
    assert names == {*NAMES, *PICTURES, "history-silo.csv", "models", "summary.json"}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output-dir .* cannot be (written|created)"):
        sim.run(SHORT | {"strategy": "silo"}, 2, tmp_path / "file")


@pytest.mark.parametrize(
    ("config", "nodes", "words"),
    [
        ({"topology": "torus"}, 7, "torus.*7"),
        ({"model": "mlp*3,lenet5*4"}, 8, "is for 7 nodes, but there are 8"),
        ({"strategy": "x", "pooling": "y"}, 8, "2 problems: unknown strategy 'x'"),
        ({"reference-size": 1437, "exchange-rows": 0}, 8, "too few for reference-size = 1437 and 8 nodes"),
        ({"dataset": "./nowhere"}, 4, "node 0 cannot take part: dataset './nowhere': the folder does not exist"),
        ({"partition": "pathological(labels_per_node=12)"}, 4, "does not fit .* samples of 10 labels"),
    ],
)
def test_mistakes_end_before_anything_trains(config: dict, nodes: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        sim.run(SHORT | config, nodes, tmp_path / "run")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strategy", ["neighbor-kd", "d-dist"])
def test_distilling_beats_training_alone_on_skewed_digits(strategy: str, tmp_path: Path) -> None:
    short = {"model": "mlp", "num-server-rounds": 4, "evaluate-every": 4, "consensus": "tracking"}
    summary = sim.run(short | {"strategy": strategy}, 8, tmp_path / "run")
    assert summary.baseline is not None
    assert summary.accuracy["mean"] > summary.baseline["mean"] + 0.03
    assert summary.bytes["per_edge"] < summary.bytes["d_sgd_per_edge"] / 20


def test_a_folder_with_a_run_is_refused_before_anything_trains(finished: tuple[sim.Summary, Path]) -> None:
    _, folder = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for config, words in ((SHORT, "another run"), (results.read(folder).config.to_dict(), "a finished run")):
        with pytest.raises(
            InputError, match=f"output-dir '{folder}' already contains {words}: .*--overwrite.*--resume"
        ):
            sim.run(config, 4, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["config.toml", "report.html", "history.csv", "graph.graphml"])
@pytest.mark.parametrize("leave", [{}, {"overwrite": True}, {"resume": True}])
def test_foreign_files_are_never_replaced(name: str, leave: dict, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"has '{name}', which flower-kd did not write"):
        sim.run(SHORT | leave, 2, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("kind", ["comparison", "sweep"])
def test_other_results_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / ".flower-kd.json").write_bytes(folders.Marker(kind).to_bytes())
    with pytest.raises(InputError, match=f"already contains a {kind}"):
        sim.run(SHORT, 2, tmp_path)


def test_overwriting_removes_the_files_of_the_earlier_run_and_no_others(tmp_path: Path) -> None:
    sim.run(SHORT | {"strategy": "neighbor-kd"}, 2, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert (tmp_path / "history-silo.csv").exists()
    sim.run(SHORT | {"strategy": "silo", "overwrite": True}, 2, tmp_path)
    assert not (tmp_path / "history-silo.csv").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert results.read(tmp_path).summary.strategy == "silo"
    assert results.read(tmp_path).config.overwrite is False  # the config may be run again


def test_a_mistake_leaves_what_would_have_been_overwritten(tmp_path: Path) -> None:
    sim.run(SHORT | {"strategy": "silo"}, 2, tmp_path)
    with pytest.raises(InputError, match="the folder does not exist"):  # which the nodes find out in the handshake
        sim.run(SHORT | {"dataset": "./nowhere", "overwrite": True}, 2, tmp_path)
    assert results.read(tmp_path).config.dataset == "digits"


class Ends:
    """A listener that ends a run in a stage (0 is the nodes alone) when a round has been evaluated."""

    def __init__(self, error: type[BaseException], stage: int, server_round: int) -> None:
        self.error, self.stage, self.server_round = error, stage, server_round
        self.begun = -1

    def on_stage(self, stage: str) -> None:
        self.begun += 1

    def on_exchange(self, server_round: int, kind: str, metrics: dict) -> None:
        if (self.begun, server_round, kind) == (self.stage, self.server_round, "evaluate"):
            raise self.error("stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, InputError])
def test_a_run_that_ends_early_leaves_its_history(error: type[BaseException], tmp_path: Path) -> None:
    sim.run(SHORT | {"strategy": "silo"}, 2, tmp_path)
    with pytest.raises(error, match="stop"):
        sim.run(SHORT | {"overwrite": True}, 2, tmp_path, listener=Ends(error, stage=1, server_round=2))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*NAMES, *PICTURES, "history-silo.csv", "checkpoint"}  # the old summary is gone
    assert results.read_config(tmp_path).strategy == "d-dist"
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["round"].tolist() == [1, 1, 2, 2]
    assert history["test-accuracy"][:2].notna().all()
    assert len(pd.read_csv(tmp_path / "history-silo.csv")) == 6
    with pytest.raises(InputError, match="does not contain a finished run"):
        results.read(tmp_path)


def test_nodes_alone_that_are_interrupted_leave_their_history(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sim.run(SHORT, 2, tmp_path / "run", listener=Ends(KeyboardInterrupt, stage=0, server_round=2))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {*NAMES, *PICTURES, "history-silo.csv", "checkpoint"} - {"history.csv"}


def full_disk(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    write_bytes = Path.write_bytes

    def refuse(path: Path, content: bytes) -> int:
        if path.name.startswith(f".{at}."):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)


def test_a_disk_that_fills_up_leaves_whole_files_and_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full_disk(monkeypatch, "accuracy.png")
    with pytest.raises(InputError, match="cannot be written: No space left on device") as refusal:
        sim.run(SHORT | {"strategy": "silo"}, 2, tmp_path / "run")
    assert str(tmp_path / "run") in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*NAMES, "checkpoint", "models"}
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 6
    assert any("silo on digits" in record.message for record in caplog.records if record.levelname == "WARNING")


def test_a_disk_that_is_full_from_the_start_keeps_the_earlier_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = sim.run(SHORT | {"strategy": "silo"}, 2, tmp_path)
    full_disk(monkeypatch, "config.toml")
    with pytest.raises(InputError, match="No space left"):
        sim.run(SHORT | {"strategy": "silo", "seed": 1, "overwrite": True}, 2, tmp_path)
    assert results.read(tmp_path).summary == before


def test_the_final_value_is_that_of_the_last_round_and_no_other() -> None:
    metrics = {
        (server_round, vertex): NodeMetrics(server_round, vertex, values)
        for server_round, vertex, values in [
            (1, 0, {"test-accuracy": 0.5}),
            (1, 1, {"test-accuracy": 0.6}),
            (2, 0, {"test-accuracy": 0.7}),
            (2, 1, {"train-loss": 1.0}),
        ]
    }
    hellos = {vertex: Hello(vertex, model="mlp") for vertex in range(2)}
    record = results.RunRecord(RunConfig(num_server_rounds=2), nx.path_graph(2), hellos, metrics, Traffic.none(2), 1.0)
    assert record.final("test-accuracy") == pytest.approx([0.7, float("nan")], nan_ok=True)
    assert record.history().columns.tolist() == ["round", "vertex", "test-accuracy", "train-loss"]
    summary = results.summarize(record, None)
    assert summary.accuracy == {"mean": 0.7, "std": 0.0, "per_node": [0.7, None]}
    later = replace(record, config=RunConfig(num_server_rounds=3))  # in whose last round nobody was evaluated
    assert results.summarize(later, None).accuracy["per_node"] == [None, None]
    silent = replace(record, metrics={})
    assert results.summarize(silent, None).accuracy == {"mean": None, "std": None, "per_node": [None, None]}


def test_an_older_summary_can_be_read(finished: tuple[sim.Summary, Path], tmp_path: Path) -> None:
    summary, folder = finished
    shutil.copytree(folder, tmp_path / "old")
    older = json.loads((folder / "summary.json").read_text())
    for name in ("models", "topology", "dataset", "baseline"):
        del older[name]
    (tmp_path / "old" / "summary.json").write_text(json.dumps(older))
    assert results.read(tmp_path / "old").summary.accuracy == summary.accuracy


def test_names_of_files() -> None:
    assert folders.file_name_of("alpha=0.5,temperature=10-seed0") == "alpha=0.5,temperature=10-seed0"
    # A percent sign would begin a comment where LaTeX includes the picture.
    assert folders.file_name_of("regular(degree=4)-16") == "regular(degree=4)-16"
    assert "/" not in folders.file_name_of("model=a/b")
    assert folders.file_name_of("a/b") != folders.file_name_of("a%2Fb")
    long = ["x" * 300 + end for end in "ab"]
    assert folders.file_name_of(long[0]) != folders.file_name_of(long[1])
    assert len(folders.file_name_of(long[0])) < 200
