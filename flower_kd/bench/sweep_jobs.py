"""A sweep with two jobs over the same sweep with one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from flower_kd.bench.figure import Figure
from flower_kd.device.loopback import end_of
from flower_kd.errors import InputError

SWEEP = [
    *("sweep", "--num-nodes", "8", "--grid", "alpha=0.2,0.5,0.8", "--grid", "temperature=1,10", "--run-config"),
    "strategy='neighbor-kd' num-server-rounds=80 evaluate-every=20",
]


def two_jobs() -> Figure:
    """Return the wall time of six runs of digits one by one, over that of two in parallel.

    Raises
    ------
    InputError
        If a sweep fails.
    """
    one, two = _seconds(1), _seconds(2)
    parts = {"s with 1 job": one, "s with 2 jobs": two}
    return Figure("sweep: 1 job over 2 jobs, wall time", one / two, 1.7, at_most=False, parts=parts)


def _seconds(jobs: int) -> float:
    with TemporaryDirectory() as temporary:
        folder = str(Path(temporary) / "sweep")
        command = [sys.executable, "-m", "flower_kd", *SWEEP, "--jobs", str(jobs), "--output-dir", folder]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    if done.returncode:
        raise InputError(f"the benchmark's sweep failed: {end_of(done.stdout + done.stderr)}")
    return seconds
