"""Runs whose nodes stop early: the same figures with workers and when resumed, and what they leave."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import killed_after

import flower_kd
from flower_kd import sim
from flower_kd.report import report, run_table
from flower_kd.runs import results

CONFIG = {
    "strategy": "neighbor-kd", "num-server-rounds": 8, "local-steps": 10, "samples-per-node": 30, "reference-size": 40,
    "reference-batch": 20, "learning-rate": 0.5, "validation-share": 0.3, "patience": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patience") / "run"
    sim.run(CONFIG, 3, folder)
    return folder


def test_what_a_run_with_patience_leaves(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    history = pd.read_csv(whole / "history.csv")
    assert any(summary["stopped"])
    last = history["round"].max()
    assert summary["rounds"] == last
    at_end = history[history["round"] == last].set_index("vertex")
    best = history.groupby("vertex")["validation-loss"].min()
    assert at_end["validation-loss"].tolist() == best.tolist()
    assert summary["accuracy"]["per_node"] == at_end["test-accuracy"].tolist()
    assert len(summary["baseline"]["per_node"]) == 3
    assert None not in summary["baseline"]["per_node"]
    for vertex in range(3):
        final, kept = (flower_kd.load_model(whole, node=vertex, best=best) for best in (False, True))
        for ours, theirs in zip(final.parameters(), kept.parameters(), strict=True):
            assert ours.equal(theirs)
    assert "stopped after" in run_table.text(results.read(whole).summary)
    assert "stopped after round" in report.write(whole).read_text()


@pytest.mark.parametrize("stage", ["alone", "neighbor-kd"])
def test_workers_and_a_resumed_run_have_the_same_figures(stage: str, whole: Path, tmp_path: Path) -> None:
    check_resumed(CONFIG, stage, 3, whole, tmp_path / "run")


def check_resumed(config: dict, stage: str, last: int, whole: Path, folder: Path) -> None:
    """Check that a run that is killed after a round, in workers, and resumed in this process, has the same figures."""
    with killed_after(last, stage):
        sim.run(config, 3, folder, workers=2)
    resumed = sim.run(config | {"resume": True}, 3, folder)
    before = json.loads((whole / "summary.json").read_text())
    assert resumed.accuracy == before["accuracy"]
    assert resumed.baseline == before["baseline"]
    assert resumed.head_1 == before["head_1"]
    assert resumed.stopped == before["stopped"]
    assert resumed.rounds == before["rounds"]
    assert resumed.bytes["per_edge"] == before["bytes"]["per_edge"]


TWO_HEADS = CONFIG | {
    "strategy": "multi-head(local_rounds=6,teachers=private)", "num-server-rounds": 12, "baseline": "none",
    "learning-rate": 0.2, "alpha": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patience") / "run"
    sim.run(TWO_HEADS, 3, folder)
    return folder


def test_both_heads_stop_by_themselves(two_heads: Path) -> None:
    summary = json.loads((two_heads / "summary.json").read_text())
    of_head_1, of_head_2 = summary["head_1"]["stopped"], summary["stopped"]
    assert any(last and last < 6 for last in of_head_1)
    assert None in of_head_1
    assert any(last and 6 < last < 12 for last in of_head_2)
    history = pd.read_csv(two_heads / "history.csv")
    losses = history.pivot_table(index="round", columns="vertex", values="validation-loss")
    accuracies = history.pivot_table(index="round", columns="vertex", values="test-accuracy")
    for figures, first, last in ((summary["head_1"], 1, 6), (summary["accuracy"], 7, summary["rounds"])):
        assert losses.loc[last].tolist() == losses.loc[first:last].min().tolist()
        assert figures["per_node"] == accuracies.loc[last].tolist()
    assert "head 1 stopped" in run_table.text(results.read(two_heads).summary)
    assert "head 1 stopped after round" in report.write(two_heads).read_text()


@pytest.mark.parametrize("last", [4, 6, 7])
def test_a_resumed_run_of_two_heads_has_the_same_figures(last: int, two_heads: Path, tmp_path: Path) -> None:
    check_resumed(TWO_HEADS, TWO_HEADS["strategy"], last, two_heads, tmp_path / "run")


def test_rounds_that_are_left_out_do_not_matter_to_what_a_run_leaves(tmp_path: Path) -> None:
    config = TWO_HEADS | {"strategy": "multi-head(local_rounds=9)", "learning-rate": 0.8}
    sim.run(config, 3, tmp_path / "whole")
    rounds = pd.read_csv(tmp_path / "whole" / "history.csv")["round"].unique().tolist()
    assert 9 in rounds
    assert 8 not in rounds
    assert "accuracy" in report.write(tmp_path / "whole").read_text()
    before = max(last for last in rounds if last < 9)
    check_resumed(config, config["strategy"], before, tmp_path / "whole", tmp_path / "run")
