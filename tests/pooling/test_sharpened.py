import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from flower_kd import pooling

PAIR = csr_array(np.array([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def of_mean(name: str, mean: list[float]) -> torch.Tensor:
    """Return the teacher of two neighbors that both predict `mean` at T = 2."""
    logits = (2 * torch.tensor(mean).log()).expand(3, 1, len(mean)).contiguous()
    teacher = pooling.get(name)(logits, PAIR, 2.0)[0]
    assert teacher is not None
    return teacher.soft_labels[0]


def test_era_by_hand() -> None:
    wanted = torch.tensor([0.5, 0.3, 0.2]).mul(10).exp()  # DS-FL's temperature of 0.1
    assert torch.allclose(of_mean("era", [0.5, 0.3, 0.2]), wanted / wanted.sum(), atol=1e-5)
    wanted = torch.tensor([0.5, 0.3, 0.2]).mul(4).exp()
    assert torch.allclose(of_mean("era(sharpness=4)", [0.5, 0.3, 0.2]), wanted / wanted.sum(), atol=1e-5)


def test_power_by_hand() -> None:
    squares = torch.tensor([0.25, 0.09, 0.04])
    assert torch.allclose(of_mean("power(beta=2)", [0.5, 0.3, 0.2]), squares / squares.sum(), atol=1e-6)
    assert torch.allclose(of_mean("power(beta=1)", [0.5, 0.3, 0.2]), torch.tensor([0.5, 0.3, 0.2]), atol=1e-6)
    powers = torch.tensor([0.5, 0.3, 0.2]) ** 1.5
    assert torch.allclose(of_mean("power", [0.5, 0.3, 0.2]), powers / powers.sum(), atol=1e-6)


def test_the_mean_is_sharpened_and_not_each_neighbor() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[100.0, 0.0]], [[0.0, 100.0]]])
    for name in ("era", "power(beta=9)"):
        teacher = pooling.get(name)(logits, PAIR, 1.0)[0]
        assert teacher is not None
        assert torch.allclose(teacher.soft_labels, torch.tensor([[0.5, 0.5]]), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(["era", "era(sharpness=30)", "power", "power(beta=4)"]),
    mean=st.lists(st.floats(0.01, 1), min_size=2, max_size=12),
)
def test_the_order_of_classes_remains(name: str, mean: list[float]) -> None:
    total = sum(mean)
    sharpened = of_mean(name, [value / total for value in mean])
    assert (sharpened[torch.tensor(mean).argsort()].diff() >= -1e-6).all()


@settings(max_examples=50, deadline=None)
@given(beta=st.floats(1, 60), mean=st.lists(st.floats(0.01, 1), min_size=2, max_size=12))
def test_a_power_above_1_lowers_the_entropy(beta: float, mean: list[float]) -> None:
    before = torch.tensor(mean) / sum(mean)
    after = of_mean(f"power(beta={beta})", before.tolist())
    assert torch.special.entr(after).sum() <= torch.special.entr(before).sum() + 1e-5


@pytest.mark.parametrize("beta", [10, 1e6])
def test_a_high_power_among_many_classes_is_not_lost(beta: float) -> None:
    mean = torch.full((10_000,), 1e-4)
    assert torch.allclose(of_mean(f"power(beta={beta})", mean.tolist()), mean, atol=1e-6) or beta == 1e6
    mean[7] = 2e-4
    sharpened = of_mean(f"power(beta={beta})", (mean / mean.sum()).tolist())
    assert torch.isfinite(sharpened).all()
    assert sharpened.argmax() == 7
    assert abs(sharpened.sum() - 1) < 1e-4
