"""Noise on logits: what it may depend on, and how much there is of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.wire import noise
from flower_kd.wire.noise import GaussianNoise, clipped

CLIPS = st.floats(1e-3, 1e3)
FORMATS = ("float32", "float16", "uint8", "labels", "simplex(bits=2)")


def logits(largest: float = 65504.0, *, rows: int = 0, classes: int = 0) -> st.SearchStrategy[np.ndarray]:
    shape = (rows, classes) if rows else array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8)
    return arrays(np.float32, shape, elements=st.floats(-largest, largest, width=32))


@given(logits(), CLIPS)
def test_rows_are_centered_and_no_longer_than_the_clip(values: np.ndarray, clip: float) -> None:
    rows = clipped(torch.from_numpy(values), clip)
    norms, tolerance = rows.norm(dim=-1), float(1e-9 * (clip + np.abs(values).max()))
    assert rows.dtype == torch.float64
    assert float(norms.max()) <= clip * (1 + 1e-12)
    assert float(rows.mean(dim=-1).abs().max()) <= tolerance
    exact = values.astype(np.float64)
    centered = exact - exact.mean(axis=-1, keepdims=True)
    for row, own, norm in zip(rows.numpy(), centered, norms.tolist(), strict=True):
        length = float(np.linalg.norm(own))
        assert row == pytest.approx(own * min(1, clip / length) if length else own, abs=tolerance)
        assert norm == pytest.approx(min(length, clip), abs=tolerance)


@given(st.tuples(logits(rows=5, classes=3), logits(rows=5, classes=3)), CLIPS)
def test_two_messages_differ_by_no_more_than_the_sensitivity(pair: tuple[np.ndarray, np.ndarray], clip: float) -> None:
    one, other = (clipped(torch.from_numpy(values), clip) for values in pair)
    assert float((one - other).norm()) <= GaussianNoise(clip=clip, multiplier=1.0).sensitivity(5) * (1 + 1e-12)


def test_the_sensitivity_is_no_larger_than_needed() -> None:
    rows = torch.tensor([[1.0, -1.0], [3.0, 0.0], [0.0, 9.0], [5.0, 4.0]]) * 100
    distance = (clipped(rows, 0.5) - clipped(-rows, 0.5)).norm()
    assert float(distance) == pytest.approx(GaussianNoise(clip=0.5, multiplier=1.0).sensitivity(4))


@pytest.mark.parametrize("draw", [noise.secret_normal, lambda shape: noise.seeded_normal(shape, 3)])
def test_noise_has_the_standard_deviation_that_is_accounted(draw) -> None:
    found = GaussianNoise(clip=0.7, multiplier=0.4)
    rows = 2_000
    values = torch.zeros(rows, 10)
    values[:, 0] = 7.0
    errors = (found.added(values, draw((rows, 10))).double() - clipped(values, 0.7)).flatten().numpy()
    std = 0.4 * 2 * 0.7 * math.sqrt(rows)
    assert found.std(rows) == pytest.approx(std)
    assert stats.kstest(errors / std, "norm").pvalue > 1e-6
    assert errors.std() == pytest.approx(std, rel=0.03)


def test_secret_noise_is_drawn_anew_and_seeded_noise_is_not() -> None:
    assert not np.array_equal(noise.secret_normal((3, 4)), noise.secret_normal((3, 4)))
    assert np.array_equal(noise.seeded_normal((3, 4), 7), noise.seeded_normal((3, 4), 7))
    assert not np.array_equal(noise.seeded_normal((3, 4), 7), noise.seeded_normal((3, 4), 8))


@pytest.mark.parametrize("coding", wire.CODINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_any_noise(name: str, coding: str) -> None:
    values = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    for multiplier in (1e-3, 1.0, 1e9):
        noised = GaussianNoise(clip=1.0, multiplier=multiplier).added(values, noise.seeded_normal((20, 4), 1))
        wire_format = wire.get(name, coding)
        assert wire_format.decode(wire_format.encode(noised), (20, 4)).shape == (20, 4)


def test_a_model_that_diverged_is_named_with_noise_too() -> None:
    noised = GaussianNoise(clip=1.0, multiplier=1.0).added(torch.tensor([[float("nan"), 0.0]]), np.zeros((1, 2)))
    with pytest.raises(InputError, match="the rows to send contain NaN or Inf: the model diverged"):
        wire.encode(noised)


def test_the_text_says_how_much() -> None:
    assert noise.get("none") is None
    assert noise.get("gaussian(clip=2, multiplier=0.5)") == GaussianNoise(clip=2.0, multiplier=0.5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gausian(clip=1)", r"unknown wire-noise 'gausian', did you mean 'gaussian'\? \(allowed: none, gaussian\)"),
        ("laplace", r"unknown wire-noise 'laplace' \(allowed: none, gaussian\)"),
        (
            "gaussian",
            r"wire-noise 'gaussian' needs the arguments clip \(number, above 0\) and multiplier \(number, above 0\), "
            r"as in 'gaussian\(clip=..., multiplier=...\)'",
        ),
        ("gaussian(clip=1)", "wire-noise 'gaussian' needs the argument multiplier"),
        ("gaussian(clip=0, multiplier=1)", "wire-noise 'gaussian': clip = 0 must be above 0"),
        ("gaussian(clip=1, multiplier=-1)", "wire-noise 'gaussian': multiplier = -1 must be above 0"),
        ("gaussian(clip=1, multiplier=inf)", "wire-noise 'gaussian': multiplier = inf must be finite"),
        ("gaussian(clip=1, multiplier=1, epsilon=3)", "unknown argument of wire-noise 'gaussian' 'epsilon'"),
        ("none(clip=1)", "wire-noise 'none' takes no arguments, but got 'clip'"),
        ("gaussian(clip=1", "wire-noise 'gaussian.clip=1' cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        noise.get(text)
