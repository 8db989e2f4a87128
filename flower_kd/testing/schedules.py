"""Properties of every schedule."""

from __future__ import annotations

import numpy as np

from flower_kd import schedule
from flower_kd.errors import InputError
from flower_kd.schedule import Schedule
from flower_kd.seeding import torch_seeded


def check_schedule(part: str | Schedule, total_steps: int = 1000) -> None:
    """Check that a schedule has a factor for each step of a run, the same in every process.

    Parameters
    ----------
    part : str or callable
        As in a run config, or the function from an optimizer to a scheduler.
    total_steps : int
        SGD steps of the run.

    Raises
    ------
    AssertionError
        If it fails, ends before the run, has factors that are negative or not finite, or others if called again.
    """
    found = []
    for seed in (0, 1):
        schedule.factors.cache_clear()
        try:
            with torch_seeded(seed):
                found.append(schedule.factors(part, total_steps))
        except InputError as error:
            raise AssertionError(str(error)) from error
    first, second = found
    assert np.array_equal(first, second), "the factors are others when it is called again"
