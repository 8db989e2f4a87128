"""Which models a finished run keeps, and what is said about the others."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context

from flower_kd import client_app, data, folders, load_model, server_app, sim
from flower_kd.clients import Node, make_client_app
from flower_kd.clients.node_files import NodeFiles
from flower_kd.clients.training import evaluate
from flower_kd.errors import InputError
from flower_kd.models.card import Score
from flower_kd.protocol import Greeting
from flower_kd.runs import results

SHORT: dict[str, Any] = {
    "strategy": "neighbor-kd", "baseline": "silo", "num-server-rounds": 2, "local-steps": 2, "samples-per-node": 10,
    "reference-size": 10, "momentum": 0.9,
}  # fmt: skip
# The lowest validation losses are in other rounds than the last.
VALIDATED: dict[str, Any] = {
    "baseline": "none", "num-server-rounds": 6, "local-steps": 4, "samples-per-node": 20, "reference-size": 40,
    "momentum": 0.9, "learning-rate": 0.6, "validation-share": 0.2,
}  # fmt: skip
NODES = 3
NAMES, BEST_NAMES = ([f"node-{node}{kind}.safetensors" for node in range(NODES)] for kind in ("", "-best"))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="flwr")
    return caplog


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "models").iterdir()}


def weights(folder: Path, nodes: int) -> list[dict[str, torch.Tensor]]:
    return [load_model(folder, node).state_dict() for node in range(nodes)]


def scores(folder: Path) -> dict[int, dict[str, float]]:
    found = tomllib.loads((folder / "models" / "model.toml").read_text())["best"]
    return {int(vertex): score for vertex, score in found.items()}


def best_weights(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_model(folder, node, best=True).state_dict() for node in range(NODES)]


def assert_same_best(folder: Path, other: Path) -> None:
    assert scores(folder) == scores(other)
    torch.testing.assert_close(best_weights(folder), best_weights(other), rtol=0, atol=0)


def test_workers_leave_the_same_models(tmp_path: Path, log) -> None:
    for workers in (1, 2):
        sim.run(VALIDATED | {"strategy": "neighbor-kd"}, NODES, tmp_path / str(workers), workers=workers)
        assert files(tmp_path / str(workers)) == {"model.toml", *NAMES, *BEST_NAMES}
    torch.testing.assert_close(weights(tmp_path / "1", 3), weights(tmp_path / "2", 3), rtol=0, atol=0)
    assert_same_best(tmp_path / "1", tmp_path / "2")
    assert "stay on the nodes" not in log.text


def test_a_run_in_the_default_folder_keeps_its_models_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sim.run(SHORT | {"strategy": "silo"}, 2)
    [folder] = (tmp_path / "flower-kd-results").iterdir()
    assert len(weights(folder, 2)) == 2
    assert not (folder / "checkpoint").exists()


def test_models_of_nodes_elsewhere_stay_there(tmp_path: Path, log) -> None:
    def find_files(context: Context, greeting: Greeting):
        elsewhere = context.node_config["partition-id"] == 1
        return None if elsewhere else client_app.find_files(context, greeting)

    some = make_client_app(client_app.build_node, find_files)
    sim.run_apps(server_app.app, some, 3, SHORT | {"output-dir": str(tmp_path / "some")})
    assert files(tmp_path / "some") == {"model.toml", "node-0.safetensors", "node-2.safetensors"}
    with pytest.raises(InputError, match=r"has no model of node 1 \(allowed: 0, 2\)"):
        load_model(tmp_path / "some", node=1)
    assert log.text.count("the models of 1 of 3 nodes stay on the nodes, each in its state-dir") == 1

    log.clear()
    none = make_client_app(client_app.build_node)
    sim.run_apps(server_app.app, none, 3, SHORT | {"output-dir": str(tmp_path / "none")})
    assert not (tmp_path / "none" / "models").exists()
    assert log.text.count("the models of 3 of 3 nodes stay on the nodes") == 1
    with pytest.raises(InputError, match="contains no models: they are on the run's nodes"):
        load_model(tmp_path / "none", node=1)


def test_models_are_replaced_with_the_run_and_other_files_stay(tmp_path: Path) -> None:
    sim.run(SHORT | {"strategy": "silo"}, 3, tmp_path)
    (tmp_path / "models" / "notes.txt").write_text("mine")
    before = weights(tmp_path, 2)
    sim.run(SHORT | {"strategy": "silo", "seed": 1, "overwrite": True}, 2, tmp_path)
    assert files(tmp_path) == {"model.toml", "node-0.safetensors", "node-1.safetensors", "notes.txt"}
    assert not torch.equal(weights(tmp_path, 2)[0]["1.weight"], before[0]["1.weight"])
    folders.clear(tmp_path)
    assert files(tmp_path) == {"notes.txt"}


def test_a_models_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "node-0.safetensors").write_text("mine")
    with pytest.raises(InputError, match="has 'models', which flower-kd did not write"):
        sim.run(SHORT | {"strategy": "silo"}, 2, tmp_path)
    assert (tmp_path / "models" / "node-0.safetensors").read_text() == "mine"


def test_a_run_killed_while_it_writes_models_is_unfinished(tmp_path: Path, monkeypatch) -> None:
    config = SHORT | {"strategy": "silo"}
    sim.run(config, 2, tmp_path / "whole")
    write = folders.write

    def full(folder: Path, parts: dict[str, bytes], **options: Any) -> None:
        if "node-1.safetensors" in parts:
            raise InputError(f"output-dir {str(folder)!r} cannot be written: No space left on device")
        write(folder, parts, **options)

    monkeypatch.setattr(folders, "write", full)
    with pytest.raises(InputError, match="No space left"):
        sim.run(config, 2, tmp_path / "run")
    with pytest.raises(InputError, match="contains an unfinished run"):
        load_model(tmp_path / "run", node=0)
    monkeypatch.undo()
    sim.run(config | {"resume": True}, 2, tmp_path / "run")
    torch.testing.assert_close(weights(tmp_path / "run", 2), weights(tmp_path / "whole", 2), rtol=0, atol=0)


@pytest.mark.parametrize("strategy", ["neighbor-kd", "d-dist", "d-sgd", "fedavg"])
def test_a_run_keeps_the_best_models_beside_the_final_ones(strategy: str, tmp_path: Path) -> None:
    config = VALIDATED | {"strategy": strategy, "evaluate-every": 2 if strategy == "d-dist" else 1}
    sim.run(config, NODES, tmp_path)
    assert files(tmp_path) == {"model.toml", *NAMES, *BEST_NAMES}
    history, found = results.read(tmp_path).history, scores(tmp_path)
    corpus = data.load(results.read(tmp_path).config.data_spec(NODES))
    for vertex in range(NODES):
        rows = history[history["vertex"] == vertex].set_index("round")
        best = rows.loc[rows["validation-loss"].idxmin()]
        assert found[vertex] == {
            "round": best.name, "accuracy": best["validation-accuracy"], "loss": best["validation-loss"],
        }  # fmt: skip
        model = load_model(tmp_path, vertex, best=True)
        assert evaluate(model, [corpus.validation(vertex)])["loss"] == pytest.approx(best["validation-loss"], rel=1e-6)
        assert evaluate(model, [corpus.test])["accuracy"] == pytest.approx(best["test-accuracy"])
    assert {score["round"] for score in found.values()} != {6}


class Interrupts:
    """A listener that ends a run in its fourth round, after its evaluation by the nodes."""

    def on_stage(self, stage: str) -> None:
        pass

    def on_exchange(self, server_round: int, kind: str, metrics: dict) -> None:
        if (server_round, kind) == (4, "evaluate"):
            raise KeyboardInterrupt


def test_the_best_models_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    config = VALIDATED | {"strategy": "neighbor-kd"}
    sim.run(config, NODES, tmp_path / "whole")
    rounds = {score["round"] for score in scores(tmp_path / "whole").values()}
    assert min(rounds) < 4 <= max(rounds)  # before the interruption, and from the repeated round on
    with pytest.raises(KeyboardInterrupt):
        sim.run(config, NODES, tmp_path / "run", listener=Interrupts())
    sim.run(config | {"resume": True}, NODES, tmp_path / "run")
    assert_same_best(tmp_path / "run", tmp_path / "whole")
    torch.testing.assert_close(weights(tmp_path / "run", 3), weights(tmp_path / "whole", 3), rtol=0, atol=0)


def test_a_best_model_that_the_disk_did_not_take_is_not_replaced_by_an_earlier_one(
    tmp_path: Path, monkeypatch, log
) -> None:
    config = VALIDATED | {"strategy": "neighbor-kd"}
    sim.run(config, NODES, tmp_path / "whole")
    whole = scores(tmp_path / "whole")
    lost = max(whole, key=lambda vertex: whole[vertex]["round"])
    save_best = NodeFiles.save_best

    def full(self: NodeFiles, node: Node, score: Score) -> None:
        if score.loss == whole[lost]["loss"]:
            raise OSError("No space left on device")
        save_best(self, node, score)

    monkeypatch.setattr(NodeFiles, "save_best", full)
    sim.run(config, NODES, tmp_path / "run")
    assert scores(tmp_path / "run") == {vertex: score for vertex, score in whole.items() if vertex != lost}
    assert f"the best model of node {lost} is lost" in log.text
    torch.testing.assert_close(weights(tmp_path / "run", 3), weights(tmp_path / "whole", 3), rtol=0, atol=0)
    with pytest.raises(InputError, match=f"has no best model of node {lost} "):
        load_model(tmp_path / "run", lost, best=True)


def test_a_node_with_a_single_sample_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    words = (
        r"node \d cannot take part: it has a single private sample, too few to hold one out: validation-share = 0\.2"
    )
    with pytest.raises(InputError, match=words):
        sim.run(VALIDATED | {"samples-per-node": 1}, NODES, tmp_path / "run")
    assert not (tmp_path / "run").exists()
