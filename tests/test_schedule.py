"""Factors of the learning rate against torch's own schedulers, and schedules that cannot be used."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, OneCycleLR, StepLR

from flower_kd import schedule
from flower_kd.config import RunConfig
from flower_kd.errors import InputError

TORCH = "torch.optim.lr_scheduler"


def optimizer(rate: float = 0.4) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=rate)


def test_a_constant_rate_costs_nothing_in_a_run_of_any_length() -> None:
    found = schedule.factors("constant", 10**12)
    assert found.shape == (10**12,)
    assert found[0] == found[-1] == 1


@pytest.mark.parametrize(
    ("text", "by_torch"),
    [
        ("constant", lambda o: LambdaLR(o, lambda _: 1.0)),
        ("cosine", lambda o: CosineAnnealingLR(o, 60)),
        ("step(every=20)", lambda o: StepLR(o, 20, 0.1)),
        ("step(every=7, factor=0.5)", lambda o: StepLR(o, 7, 0.5)),
        ("warmup(steps=4)", lambda o: LambdaLR(o, lambda step: min((step + 1) / 5, 1))),
        (
            "cosine(warmup=10)",
            lambda o: LambdaLR(
                o, lambda s: (s + 1) / 11 if s < 10 else (1 + math.cos(math.pi * (s - 10) / 50)) / 2
            ),
        ),
        (f"{TORCH}:OneCycleLR(max_lr=1.0)", lambda o: OneCycleLR(o, o.defaults["lr"], total_steps=60)),
        (f"{TORCH}:ExponentialLR(gamma=0.9)", lambda o: ExponentialLR(o, 0.9)),
        (lambda o: StepLR(o, 30), lambda o: StepLR(o, 30)),
    ],
)  # fmt: skip
def test_rates_are_those_of_torch_s_scheduler_step_by_step(text, by_torch) -> None:
    straight = optimizer()
    scheduler, rates = by_torch(straight), []
    for _ in range(60):
        rates.append(straight.param_groups[0]["lr"])
        straight.step()
        scheduler.step()
    scheduled, found = optimizer(), []
    with schedule.scaled_rates(scheduled, schedule.factors(text, 60)) as set_rates:
        for index in range(60):
            set_rates(index)
            found.append(scheduled.param_groups[0]["lr"])
    assert found == pytest.approx(rates, rel=1e-9, abs=1e-12)
    assert scheduled.param_groups[0]["lr"] == 0.4


@given(steps=st.integers(2, 300), share=st.floats(0, 0.9))
def test_a_cosine_falls_from_its_warm_up_to_almost_nothing(steps: int, share: float) -> None:
    warmup = int(share * steps)
    found = schedule.factors(f"cosine(warmup={warmup})", steps)
    assert len(found) == steps
    assert found[warmup] == pytest.approx(1)
    assert (np.diff(found[: warmup + 1]) > 0).all()
    assert (np.diff(found[warmup:]) < 0).all()
    assert found[-1] == pytest.approx((1 - math.cos(math.pi / (steps - warmup))) / 2)


def test_groups_of_parameters_keep_their_own_rates_and_get_them_back() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.1, 0.3)]
    both = torch.optim.SGD(groups)
    with schedule.scaled_rates(both, [0.5, 0.1]) as set_rates:
        for index, factor in enumerate((0.5, 0.1)):
            set_rates(index)
            assert [group["lr"] for group in both.param_groups] == [0.1 * factor, 0.3 * factor]
    assert [group["lr"] for group in both.param_groups] == [0.1, 0.3]
    with pytest.raises(IndexError), schedule.scaled_rates(both, [0.5]) as set_rates:
        [set_rates(index) for index in range(2)]
    assert [group["lr"] for group in both.param_groups] == [0.1, 0.3]


def ends_early(optimizer, *, total_steps):
    return OneCycleLR(optimizer, 1.0, total_steps=total_steps - 3)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("cosin", "unknown schedule 'cosin', did you mean 'cosine'"),
        ("cosine(steps=5)", "unknown argument of schedule 'cosine' 'steps'"),
        ("cosine(total_steps=5)", "total_steps is supplied by flower-kd"),
        ("cosine(warmup=10)", "a warm-up of 10 steps needs a run of more than 10, not 10"),
        ("warmup(steps=12)", "'warmup.steps=12.': a warm-up of 12 steps"),
        ("warmup", r"needs the argument steps \(whole number, at least 1\), as in 'warmup\(steps=...\)'"),
        (f"{TORCH}:ReduceLROnPlateau", r"its step\(\) needs metrics, but a schedule depends on the number of steps"),
        ("step(every=0)", "every = 0 must be at least 1"),
        ("step(every=2, factor=0.0)", "factor = 0.0 must be above 0"),
        (f"{TORCH}:PolynomialLR", "ends before the run: its rate is 0 after 5 of 10 steps"),
        (f"{TORCH}:ExponentialLR(gamma=-1.0)", "has the factor -1 at step 1 of 10"),
        (ends_early, "schedule 'ends_early' ends after 8 of the run's 10 steps: ValueError"),
        (lambda o: LambdaLR(o, lambda step: float("nan") if step == 4 else 1.0), "has the factor nan at step 4 of 10"),
        (lambda o: LambdaLR(o, lambda step: 0.0), "its rate is 0 after 0 of 10 steps"),
        (lambda o: 3, "returns an int, not a torch.optim.lr_scheduler.LRScheduler"),
        (lambda o: 1 / 0, "fails: ZeroDivisionError"),
    ],
)
def test_schedules_that_do_not_fit_the_run(part, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        schedule.factors(part, 10)
    assert "\n" not in str(refusal.value)


def test_a_run_config_says_so_before_anything_starts() -> None:
    RunConfig.parse({"schedule": "cosine(warmup=99)", "num-server-rounds": 4, "local-steps": 25})
    with pytest.raises(InputError, match="a warm-up of 100 steps needs a run of more than 100, not 100"):
        RunConfig.parse({"schedule": "cosine(warmup=100)", "num-server-rounds": 4, "local-steps": 25})


def test_keys_of_the_run_do_not_become_settings_of_torch_s_schedulers() -> None:
    RunConfig.parse({"schedule": f"{TORCH}:StepLR(step_size=100)", "gamma": 15.0})
    text = schedule.SCHEDULES.filled(f"{TORCH}:StepLR(step_size=100)", {"gamma": 15.0})
    assert text == f"{TORCH}:StepLR(step_size=100)"
