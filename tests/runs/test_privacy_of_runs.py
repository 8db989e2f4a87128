"""The privacy loss in what a run leaves, in process and after it was killed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import killed_after

from flower_kd import privacy, sim
from flower_kd.errors import InputError
from flower_kd.report import report, run_table
from flower_kd.runs import results

CONFIG: dict[str, Any] = {
    "strategy": "neighbor-kd", "wire": "labels", "wire-coding": "delta", "baseline": "none", "num-server-rounds": 3,
    "local-steps": 2, "samples-per-node": 30, "reference-size": 40, "reference-batch": 20,
    "wire-noise": "gaussian(clip=1.0, multiplier=0.5)",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "noised"
    sim.run(CONFIG, 3, path)
    return path


def test_the_summary_has_the_loss_of_the_node_that_sent_most(folder: Path) -> None:
    found = json.loads((folder / results.SUMMARY_FILE).read_text())["privacy"]
    assert found["epsilon"] == found["epsilon_by_delta"]["1e-05"] == pytest.approx(privacy.epsilon(0.5, 2, 1e-5))
    assert found["epsilon_by_delta"]["1e-08"] == pytest.approx(privacy.epsilon(0.5, 2, 1e-8))
    assert (found["delta"], found["messages"], found["multiplier"]) == (1e-5, 2, 0.5)
    assert found["seeded_nodes"] == [0, 1, 2]


def test_the_table_and_the_page_have_one_line(folder: Path) -> None:
    finished = results.read(folder)
    assert finished.summary.privacy is not None
    [line] = " ".join(run_table.text(finished.summary).split()).split("wire-noise: ")[1:]
    loss = "epsilon 15.46 at delta 1e-05 for all data of a node, 2 messages of logits"
    assert line.startswith(f"{loss}; noise from the seed on 3 of 3 nodes, which protects nothing")
    html = report.write(folder).read_text()
    assert "at delta 1e-05, for all data of a node; messages with noise: 2; drawn from the run&#39;s seed" in html


def test_workers_and_a_resumed_run_have_the_same_figures(folder: Path, tmp_path: Path) -> None:
    whole = results.read(folder).summary
    with killed_after(2):
        sim.run(CONFIG, 3, tmp_path / "resumed", workers=2)
    resumed = sim.run(CONFIG | {"resume": True}, 3, tmp_path / "resumed")
    assert resumed.accuracy == whole.accuracy
    assert resumed.privacy == whole.privacy


@pytest.mark.parametrize(
    "keys",
    [
        {"wire-noise": "none"},
        {"strategy": "d-sgd"},
        {"strategy": "silo"},
        {"strategy": "multi-head(teachers=private)", "model": "resnet2", "wire-coding": "plain"},
    ],
)
def test_a_run_without_noise_states_no_loss(keys: dict[str, Any], tmp_path: Path) -> None:
    summary = sim.run(CONFIG | keys, 3, tmp_path / "run")
    assert summary.privacy is None
    assert "wire-noise" not in run_table.text(summary)


@pytest.mark.parametrize("strategy", ["d-sgd", "fedavg", "silo", "multi-head(teachers=private)"])
def test_strategies_that_send_no_logits_say_that_noise_has_no_effect(strategy: str) -> None:
    from flower_kd import unused
    from flower_kd.config import RunConfig

    line = unused.warning([RunConfig.parse({"strategy": strategy, "wire-noise": CONFIG["wire-noise"]})])
    assert line.startswith("without effect: wire-noise = 'gaussian(clip=1.0, multiplier=0.5)'")


def test_without_the_accountant_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.import_module

    def missing(name: str, *more: Any) -> Any:
        if name == "dp_accounting":
            raise ModuleNotFoundError("No module named 'dp_accounting'")
        return found(name, *more)

    privacy.accountant.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"cannot be accounted: .* pip install 'flower-kd\[privacy\]'"):
        sim.run(CONFIG, 3, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    privacy.accountant.cache_clear()
    sim.run(CONFIG | {"wire-noise": "none"}, 3, tmp_path / "run")  # it is not needed


def test_a_wrong_text_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wire-noise 'gaussian': clip = -1 must be above 0"):
        sim.run(CONFIG | {"wire-noise": "gaussian(clip=-1, multiplier=1)"}, 3, tmp_path / "run")
    with pytest.raises(InputError, match="cannot set wire_noise, which belongs to the whole run: write wire-noise"):
        sim.run(CONFIG | {"strategy": "neighbor-kd(wire_noise='none')"}, 3, tmp_path / "run")
