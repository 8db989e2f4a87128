"""Learning rates over a run, as factors of each optimizer's own rates, from the schedulers of torch.

A schedule is a function that puts a scheduler of `torch.optim.lr_scheduler` on an optimizer; the run's number of steps
comes with the call. It is run once, on an optimizer whose rate is 1, and what it makes of that rate are the factors of
the run's steps. So nothing of it has to be kept between messages, and all engines use the same factors.

A new one is a function and its registration::

    @SCHEDULES.register("exponential")
    def exponential(optimizer: Optimizer, *, total_steps: int, final: float = 0.01) -> LRScheduler:
        return ExponentialLR(optimizer, final ** (1 / total_steps))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR, StepLR

from flower_kd.errors import InputError, of_type
from flower_kd.failures import describe
from flower_kd.parts.registry import Registry
from flower_kd.parts.signatures import parameters_of
from flower_kd.ranges import Count, Positive, Whole

CONSTANT = "constant"

# From an optimizer to a scheduler on it; `total_steps` is supplied to those that take it.
Schedule = Callable[..., LRScheduler]

# The schedulers of torch whose step() needs no argument are parts as they are, such as
# "torch.optim.lr_scheduler:OneCycleLR(max_lr=1.0)"; ReduceLROnPlateau is none of them, as it needs a metric.
SCHEDULES: Registry[Schedule] = Registry(
    "schedule", group="flower_kd.schedules", given=("optimizer", "total_steps"), foreign=True
)


def names() -> list[str]:
    """Return the names of the schedules."""
    return SCHEDULES.names()


@SCHEDULES.register(CONSTANT)
def constant(optimizer: Optimizer) -> LRScheduler:
    """Keep the learning rate."""
    return ConstantLR(optimizer, factor=1.0)


@SCHEDULES.register("cosine")
def cosine(optimizer: Optimizer, *, total_steps: int, warmup: Whole = 0) -> LRScheduler:
    """Lower the rate to 0 over the run along half a cosine, after `warmup` steps of linear growth (SGDR, 2017)."""
    if not warmup:
        return CosineAnnealingLR(optimizer, total_steps)
    _check_warmup(warmup, total_steps)
    falling = CosineAnnealingLR(optimizer, total_steps - warmup)
    return SequentialLR(optimizer, [_growing(optimizer, warmup), falling], [warmup])


@SCHEDULES.register("step")
def step(optimizer: Optimizer, *, every: Count, factor: Positive = 0.1) -> LRScheduler:
    """Multiply the rate by `factor` after each `every` steps."""
    return StepLR(optimizer, every, factor)


@SCHEDULES.register("warmup")
def warmup(optimizer: Optimizer, *, total_steps: int, steps: Count) -> LRScheduler:
    """Let the rate grow linearly over the first `steps` steps, then keep it."""
    _check_warmup(steps, total_steps)
    return _growing(optimizer, steps)


def _growing(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a scheduler whose rate is 1 / (steps + 1) of the full one at first, and the full one after `steps`."""
    return LinearLR(optimizer, 1 / (steps + 1), total_iters=steps)


def _check_warmup(steps: int, total_steps: int) -> None:
    if steps >= total_steps:
        raise InputError(f"a warm-up of {steps} steps needs a run of more than {steps}, not {total_steps}")


@lru_cache(maxsize=64)
def factors(schedule: str | Schedule, total_steps: int) -> np.ndarray:
    """Return the factor of the learning rates in each step of a run.

    Parameters
    ----------
    schedule : str or callable
        One of `names()` or `module:attribute`, with settings in parentheses if it has any; or a function from an
        optimizer, and `total_steps` if it takes it, to a scheduler of torch.
    total_steps : int
        SGD steps of the run, at least 1.

    Returns
    -------
    ndarray
        Factors [total_steps], not to be changed.

    Raises
    ------
    InputError
        If the schedule cannot be used, ends before the run, or has a factor that is negative or not finite.
    """
    title = _title(schedule)
    if total_steps < 1:
        raise InputError(f"{title} needs the number of steps of the run, which the server did not send")
    if schedule == CONSTANT:
        return np.broadcast_to(1.0, total_steps)
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    found = np.fromiter(islice(_rates(schedule, optimizer, total_steps), total_steps), np.float64, total_steps)
    odd = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if len(odd):
        raise InputError(
            f"{title} has the factor {found[odd[0]]:g} at step {odd[0]} of {total_steps}: factors must be finite, and "
            "at least 0"
        )
    used = int(np.flatnonzero(found)[-1]) + 1 if found.any() else 0
    if used < total_steps - 1:  # in the last step, a schedule may have reached 0
        raise InputError(f"{title} ends before the run: its rate is 0 after {used} of {total_steps} steps")
    found.flags.writeable = False
    return found


def _rates(schedule: str | Schedule, optimizer: Optimizer, total_steps: int) -> Iterator[float]:
    """Yield the rate of an optimizer in each step under a schedule."""
    scheduler = _scheduler(schedule, optimizer, total_steps)
    (group,) = optimizer.param_groups
    optimizer.step()  # without gradients; schedulers warn if there was none before their first step
    for done in range(1, total_steps + 1):
        yield float(group["lr"])
        if done == total_steps:
            return
        try:
            scheduler.step()
        except Exception as error:
            title = _title(schedule)
            raise InputError(
                f"{title} ends after {done} of the run's {total_steps} steps: {describe(error)}"
            ) from error


def _scheduler(schedule: str | Schedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    title = _title(schedule)
    function: Callable[..., Any] = SCHEDULES.bind(schedule) if isinstance(schedule, str) else schedule
    try:
        takes_steps = "total_steps" in parameters_of(getattr(function, "func", function))
        scheduler = function(optimizer, **({"total_steps": total_steps} if takes_steps else {}))
    except InputError as error:
        raise InputError(f"{title}: {error}") from None
    except (Exception, SystemExit) as error:  # a part may be the user's code
        raise InputError(f"{title} fails: {describe(error)}") from error
    if not isinstance(scheduler, LRScheduler):
        raise InputError(f"{title} returns {of_type(scheduler)}, not a torch.optim.lr_scheduler.LRScheduler")
    needed = [name for name, setting in parameters_of(type(scheduler).step).items() if setting.required][1:]
    if needed:
        raise InputError(
            f"{title} cannot be used: its step() needs {' and '.join(needed)}, but a schedule depends on the number of "
            "steps alone"
        )
    return scheduler


def _title(schedule: object) -> str:
    return f"schedule {schedule if isinstance(schedule, str) else getattr(schedule, '__qualname__', schedule)!r}"


@contextmanager
def scaled_rates(optimizer: Optimizer, factors: Sequence[float] | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that sets an optimizer's rates to a factor of what they are now; at the end they are that again.

    Each group of parameters keeps its own rate. As the rates do not drift, a node that lives on between messages has
    those of one that is built anew.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups of parameters have rates "lr".
    factors : sequence of float, optional
        What the yielded function chooses from, by index. If omitted, it leaves the rates alone.
    """
    if factors is None:
        yield lambda index: None
        return
    own = [group["lr"] for group in optimizer.param_groups]

    def scale(factor: float) -> None:
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = rate * factor

    try:
        yield lambda index: scale(factors[index])
    finally:
        scale(1.0)
