import multiprocessing
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


class Interrupting:
    """A display that presses Ctrl-C once two runs report their progress."""

    def __init__(self) -> None:
        self.reporting: set[str] = set()

    def begin(self, run: str) -> None:
        pass

    def update(self, run: str, event: progress.ProgressEvent) -> None:
        self.reporting.add(run)
        if len(self.reporting) == 2:
            raise KeyboardInterrupt

    def warn(self, run: str, line: str) -> None:
        pass

    def end(self, run: str) -> None:
        raise AssertionError(f"{run} has ended")


def test_interrupted_processes_end_their_runs_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 200.0)  # on a busy machine they take longer to draw their pictures
    jobs = batch.jobs({"endless": SHORT | {"num-server-rounds": 1_000_000}}, "2", 2, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        processes.run(jobs, 2, workers=1, tensorboard=False, display=Interrupting(), on_outcome=lambda outcome: None)
    assert multiprocessing.active_children() == []
    for job in jobs:
        assert (job.folder / "accuracy.png").exists()  # written as a run ends, not after each round
        assert not list(job.folder.glob(".*.partial"))
