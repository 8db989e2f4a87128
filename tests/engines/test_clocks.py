"""Clocks that differ from the SuperLink's, in real processes: `pytest -m slow tests/engines/test_clocks.py`."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from devices import NODES, Devices, wait

from flower_kd import sim

# Python imports it at each start of a process; datetime.now and time.time are what Flower and this package read.
SHIFTED = """
import datetime, sys, time

clock, real = time.time, datetime.datetime

class Kind(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, real)

class Shifted(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=OFFSET)

if any("flower-supernode" in word for word in sys.orig_argv):  # C extensions elsewhere need the real one
    datetime.datetime = Shifted
time.time = lambda: clock() + OFFSET
"""


def shifted(folder: Path, seconds: float) -> dict[str, str]:
    """Return the environment of processes whose clocks are so many seconds ahead."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"OFFSET = {seconds}\n{SHIFTED}")
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.slow
def test_a_wrong_clock_is_named_and_a_difference_that_flower_allows_changes_nothing(tmp_path: Path) -> None:
    config = {
        "strategy": "neighbor-kd", "baseline": "none", "num-server-rounds": 2, "local-steps": 4, "samples-per-node": 40,
        "reference-size": 60, "validation-share": 0.2,
    }  # fmt: skip
    with ExitStack() as processes:
        devices = Devices(tmp_path, processes, warm=True)
        for seconds, words in ((7200, "about 2 hours ahead of"), (-7200, "about 2 hours behind")):
            devices.started["supernode-1"].terminate()  # signed off: one that is killed would count as connected
            devices.started["supernode-1"].wait(60)
            devices.start_supernode(1, **shifted(tmp_path / f"clock{seconds}", seconds))
            wait(lambda: devices.started["supernode-1"].poll() is not None, 120)
            assert devices.started["supernode-1"].returncode == 2
            assert f"the clock of this device is {words} that of the SuperLink at" in devices.log_of("supernode-1")
            assert "SuperNode ID" not in devices.log_of("supernode-1")
        devices.start_supernode(1, **shifted(tmp_path / "clock-200", -200))
        output = devices.run(config | {"output-dir": str(tmp_path / "run")})
        devices.end()
    assert "continues without" not in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    here = sim.run(config, NODES, tmp_path / "here")
    assert summary["accuracy"]["per_node"] == pytest.approx(here.accuracy["per_node"], abs=1e-6)
    assert summary["bytes"] == here.bytes
