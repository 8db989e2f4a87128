"""Runs whose nodes stop early: the same figures with workers and when resumed, and what they leave."""

import json
from pathlib import Path

import pandas as pd
import pytest

import flower_kd
from flower_kd import sim
from flower_kd.report import report, run_table
from flower_kd.runs import results, run_folder

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
    save_round = run_folder.RunFolder.save_round

    def killed(self, of_stage: str, server_round: int, *rest: object) -> None:
        save_round(self, of_stage, server_round, *rest)
        if (of_stage, server_round) == (stage, 3):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "save_round", killed)
        with pytest.raises(KeyboardInterrupt):
            sim.run(CONFIG, 3, tmp_path / "run", workers=2)
    resumed = sim.run(CONFIG | {"resume": True}, 3, tmp_path / "run")
    before = json.loads((whole / "summary.json").read_text())
    assert resumed.accuracy == before["accuracy"]
    assert resumed.baseline == before["baseline"]
    assert resumed.stopped == before["stopped"]
    assert resumed.rounds == before["rounds"]
    assert resumed.bytes["per_edge"] == before["bytes"]["per_edge"]
