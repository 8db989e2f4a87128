from pathlib import Path

import pandas as pd
import pytest

from flower_kd.report import report
from flower_kd.sim import run

SHORT = {"num-server-rounds": 2, "local-steps": 2, "samples-per-node": 20, "reference-size": 20, "baseline": "none"}


@pytest.mark.parametrize("strategy", ["neighbor-kd", "d-dist"])
def test_norms_are_in_the_history_and_on_the_page(strategy: str, tmp_path: Path) -> None:
    run(SHORT | {"strategy": strategy, "record-gradients": True}, 3, tmp_path / "run")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert (history["label-gradient"] > 0).all()
    assert history.loc[history["round"] == 1, "kd-gradient"].isna().all()  # no teacher yet
    assert (history.loc[history["round"] == 2, "kd-gradient"] > 0).all()
    page = report.write(tmp_path / "run").read_text()
    assert "kd-gradient" in page
    assert "label-gradient" in page


def test_they_change_no_other_figure(tmp_path: Path) -> None:
    for record in (False, True):
        run(SHORT | {"strategy": "neighbor-kd", "record-gradients": record}, 3, tmp_path / str(record))
    plain, recorded = (pd.read_csv(tmp_path / str(record) / "history.csv") for record in (False, True))
    assert set(recorded) - set(plain) == {"kd-gradient", "label-gradient"}
    same = ["test-accuracy", "test-loss", "train-loss", "kd-loss"]
    pd.testing.assert_frame_equal(plain[same], recorded[same])
