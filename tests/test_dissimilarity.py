import doctest
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flower_kd import dissimilarity
from flower_kd.dissimilarity import DISSIMILARITIES, get, names, soften
from flower_kd.errors import InputError

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "dissimilarities.json"
ZERO_AT_EQUALITY = [name for name in names() if name != "ce"]
BOUNDS = {"js": math.log(2), "sed": 1.0, "td": 1.0, "hellinger": 1.0, "total-variation": 1.0, "cosine": 1.0}

logits = st.integers(2, 12).flatmap(
    lambda classes: st.lists(st.lists(st.floats(-30, 30), min_size=classes, max_size=classes), min_size=2, max_size=2)
)


def pair(values: list[list[float]]) -> tuple[Tensor, Tensor]:
    student, teacher = torch.tensor(values, dtype=torch.float64)
    return soften(student[None], 1.0), soften(teacher[None], 1.0)


def test_names_and_their_order() -> None:
    assert names()[:6] == ["kl", "ce", "js", "sed", "td", "msed"]
    assert names()[6:] == ["jeffreys", "hellinger", "total-variation", "squared-error", "reverse-kl", "cosine"]


def test_examples_in_the_docstrings() -> None:
    results = doctest.testmod(dissimilarity)
    assert results.attempted > 0
    assert results.failed == 0


# Student's logits, teacher's, temperature, and sums over rows, from the formulas as they are printed, on probabilities
# with 40 digits (mpmath).
VALUES = [
    (
        [[0.0, 0.9, -0.82]],
        [[-2.67, -1.36, -2.97]],
        1.0,
        {
            "kl": 0.015611598920788371,
            "ce": 0.86014290441977689,
            "js": 0.0040343770915597356,
            "sed": 0.0040425261459189479,
            "td": 0.0080391751994310279,
            "msed": 0.0040425261459189479,
            "jeffreys": 0.032394596384349873,
            "hellinger": 0.063575395624736335,
            "total-variation": 0.072820403063993047,
            "squared-error": 0.0083098810047484086,
            "reverse-kl": 0.016782997463561502,
            "cosine": 0.0076169058928376632,
        },
    ),
    (
        [[0.18, 4.02, -1.48, -1.86], [1.47, 1.07, 0.32, -2.79]],
        [[-0.09, 2.09, -4.03, -1.37], [-5.7, -3.87, -5.53, -0.71]],
        2.0,
        {
            "kl": 1.7616824942556693,
            "ce": 3.5933272813285889,
            "js": 0.31086646395481345,
            "sed": 0.35732334512040503,
            "td": 0.54238596322780471,
            "msed": 0.35732334512040503,
            "jeffreys": 3.0075151685570011,
            "hellinger": 0.71061396738685605,
            "total-variation": 0.84920836845948687,
            "squared-error": 0.67077419801710802,
            "reverse-kl": 1.2458326743013318,
            "cosine": 0.73323357995036078,
        },
    ),
    (
        [[-3.8, 0.81, 0.47, -0.56, -7.55]],
        [[-1.62, -0.15, 0.34, -4.59, -1.43]],
        10.0,
        {
            "kl": 0.04900046170242755,
            "ce": 1.6451179793796275,
            "js": 0.011815356073357244,
            "sed": 0.01188543311603578,
            "td": 0.023393199474503478,
            "msed": 0.01188543311603578,
            "jeffreys": 0.095500662205588208,
            "hellinger": 0.10897718432349152,
            "total-variation": 0.12039791082800806,
            "squared-error": 0.015991391845472066,
            "reverse-kl": 0.046500200503160659,
            "cosine": 0.037745287987228475,
        },
    ),
]


@pytest.mark.parametrize(("student", "teacher", "temperature", "expected"), VALUES)
def test_values_of_an_independent_computation(
    student: list[list[float]], teacher: list[list[float]], temperature: float, expected: dict[str, float]
) -> None:
    assert set(expected) == set(names())
    p, q = (soften(torch.tensor(logits, dtype=torch.float64), temperature) for logits in (student, teacher))
    for name, value in expected.items():
        assert get(name, "sum")(p, q).item() == pytest.approx(value, rel=1e-10, abs=0), name
        single = get(name, "sum")(p.float(), q.float()).item()
        assert single == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden values are not part of the product")
def test_golden_values() -> None:
    cases = json.loads(GOLDEN.read_text())["cases"]
    assert len(cases) > 5
    for case in cases:
        student, teacher = (
            soften(torch.tensor(case[f"{side}_logits"], dtype=torch.float64), case["temperature"])
            for side in ("student", "teacher")
        )
        for name, expected in case["expected_sum"].items():
            assert get(name, "sum")(student, teacher).item() == pytest.approx(expected, rel=1e-9, abs=0), name


def test_values_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.75, 0.25]]).double()
    by_hand = {
        "kl": 0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        "reverse-kl": 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25),
        "ce": math.log(2),
        "td": 1 - (2 * 0.375 / 1.25 + 2 * 0.125 / 0.75),
        "total-variation": 0.25,
        "squared-error": 0.125,
        "hellinger": math.sqrt(1 - math.sqrt(0.375) - math.sqrt(0.125)),
        "cosine": 1 - 0.5 / math.sqrt(0.5 * 0.625),
    }
    by_hand["jeffreys"] = by_hand["kl"] + by_hand["reverse-kl"]
    entropy = {"p": math.log(2), "q": -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))}
    entropy["mean"] = -(0.625 * math.log(0.625) + 0.375 * math.log(0.375))
    by_hand["js"] = entropy["mean"] - entropy["p"] / 2 - entropy["q"] / 2
    by_hand["sed"] = math.exp(entropy["mean"]) / math.sqrt(math.exp(entropy["p"]) * math.exp(entropy["q"])) - 1
    by_hand["msed"] = by_hand["sed"]
    assert set(by_hand) == set(names())
    for name, value in by_hand.items():
        assert get(name)(p.log(), q.log()).item() == pytest.approx(value, rel=1e-9), name


def test_msed_of_three_by_its_definition() -> None:
    rows = torch.softmax(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double(), dim=-1)

    def complexity(v: Tensor) -> Tensor:
        return (-(v * v.log()).sum(-1)).exp()

    product = complexity(rows[0]) * complexity(rows[1]) * complexity(rows[2])
    expected = (complexity(rows.mean(0)) / product ** (1 / 3) - 1) / 2
    assert torch.allclose(get("msed", "none")(rows[0].log(), rows[1:].log()), expected, rtol=1e-9)


@given(logits)
def test_not_negative_and_bounded(values: list[list[float]]) -> None:
    p, q = pair(values)
    for name in names():
        value = get(name)(p, q).item()
        assert value >= -1e-12, name
        assert value <= BOUNDS.get(name, math.inf) + 1e-9, name


@given(logits)
def test_zero_at_equality(values: list[list[float]]) -> None:
    p, _ = pair(values)
    for name in ZERO_AT_EQUALITY:
        assert get(name)(p, p).item() == pytest.approx(0, abs=1e-12), name
    assert get("ce")(p, p).item() == pytest.approx(-(p.exp() * p).sum().item())


@given(logits)
def test_symmetric_where_claimed(values: list[list[float]]) -> None:
    p, q = pair(values)
    for name in names():
        if DISSIMILARITIES.get(name).symmetric:
            assert get(name)(p, q).item() == pytest.approx(get(name)(q, p).item(), rel=1e-9, abs=1e-12), name


def test_asymmetric_ones_are_so() -> None:
    p, q = pair([[0.0, 1.0, 4.0], [3.0, 0.0, 0.0]])
    for name in ("kl", "ce", "reverse-kl"):
        assert get(name)(p, q).item() != pytest.approx(get(name)(q, p).item(), rel=1e-3)


@given(logits)
def test_known_relations(values: list[list[float]]) -> None:
    p, q = pair(values)

    def value(name: str) -> float:
        return get(name)(p, q).item()

    assert value("sed") == pytest.approx(math.expm1(value("js")), rel=1e-9, abs=1e-12)
    assert value("msed") == pytest.approx(value("sed"), rel=1e-9, abs=1e-12)
    assert value("jeffreys") == pytest.approx(value("kl") + value("reverse-kl"), rel=1e-9, abs=1e-9)
    assert value("ce") == pytest.approx(value("kl") - (q.exp() * q).sum().item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_extreme_logits_and_exact_zeros(name: str, dtype: torch.dtype) -> None:
    extremes = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]], dtype=dtype)
    teachers = [soften(extremes.roll(shift, 0), 1.0) for shift in range(3)]
    teachers += [torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]], dtype=dtype).log()]
    teachers.append(torch.stack(teachers))
    for teacher in teachers:
        student = extremes.clone().requires_grad_()
        value = get(name, "sum")(soften(student, 1.0), teacher)
        value.backward()
        assert torch.isfinite(value)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", names())
def test_finite_gradient_at_equality(name: str) -> None:
    student = torch.tensor([[0.3, -1.0, 2.0]]).requires_grad_()
    get(name)(soften(student, 2.0), soften(student.detach(), 2.0)).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    if name in ZERO_AT_EQUALITY:
        assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize("name", names())
def test_gradients_are_right(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = soften(torch.randn(3, 4, generator=generator, dtype=torch.float64), 1.0)
    assert torch.autograd.gradcheck(lambda z: get(name, "sum")(soften(z, 3.0), teacher), (student,))


@pytest.mark.parametrize("name", names())
def test_function_module_and_reductions_agree(name: str) -> None:
    p, q = (soften(torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)), 1.0) for seed in (0, 1))
    rows = get(name, "none")(p, q)
    assert rows.shape == (5,)
    assert isinstance(get(name), nn.Module)
    assert get(name, "sum")(p, q).item() == pytest.approx(rows.sum().item(), rel=1e-6)
    assert get(name)(p, q).item() == pytest.approx(rows.mean().item(), rel=1e-6)
    function = getattr(dissimilarity, name.replace("-", "_"))
    assert torch.equal(function(p, q, reduction="none"), rows)


@pytest.mark.parametrize("name", names())
def test_module_and_function_survive_pickling(name: str) -> None:
    p, q = pair([[0.0, 1.0, 4.0], [3.0, 0.0, 0.0]])
    module = get(name, "sum")
    assert torch.equal(pickle.loads(pickle.dumps(module))(p, q), module(p, q))
    function = getattr(dissimilarity, name.replace("-", "_"))
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("name", names())
def test_several_teachers(name: str) -> None:
    p = soften(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), 1.0)
    q = soften(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)), 1.0)
    values = get(name, "none")(p, q)
    if DISSIMILARITIES.get(name).multiway:
        assert values.shape == (5,)
    else:
        assert torch.allclose(values, torch.stack([get(name, "none")(p, teacher) for teacher in q]))


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown dissimilarity 'j', did you mean 'js'\? \(allowed: kl, ce"):
        get("j")
    with pytest.raises(InputError, match=r"unknown reduction 'max' \(allowed: mean, sum, none\)"):
        get("js", reduction="max")
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="must be above 0 and finite"):
            soften(torch.zeros(1, 2), temperature)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("shape", [(4, 1), (4, 2), (1, 3), (3,), (2, 5, 3), (1, 2, 4, 3)])
def test_a_teacher_of_another_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=rf"teacher of shape \[{', '.join(map(str, shape))}\] does not fit student"):
        get(name)(torch.zeros(4, 3), torch.zeros(shape))
