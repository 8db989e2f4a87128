from pathlib import Path

import pytest

from flower_kd.study import batch, processes, progress
from flower_kd.study.job import Outcome

SHORT = {"strategy": "silo", "num-server-rounds": 2, "local-steps": 2, "samples-per-node": 20, "reference-size": 40}


def test_a_killed_process_is_one_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "killer.py").write_text(
        "import os, signal\ndef factory(*args, **kwargs):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    runs = {"killed": SHORT | {"model": "killer:factory"}, "well": SHORT, "wrong": SHORT | {"dataset": "./nowhere"}}
    jobs = batch.jobs(runs, "1", 2, tmp_path)
    ended: list[Outcome] = []
    with progress.display(3) as display:  # one process, so that the others need a fresh one
        processes.run(jobs, 1, workers=1, tensorboard=False, display=display, on_outcome=ended.append)
    killed, well, wrong = ended
    assert (killed.job, killed.summary) == (jobs[0], None)
    assert killed.error == "its process was killed"
    assert well.summary is not None
    assert (jobs[1].folder / "summary.json").exists()
    assert "the folder does not exist" in wrong.error
