import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flower_kd import dissimilarity, pooling, wire
from flower_kd.errors import InputError
from flower_kd.pooling import Teacher
from flower_kd.topology import build, uniform_matrix
from flower_kd.wire.symbolic import Simplex

logits = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(2, 12)), elements=st.floats(-6e4, 6e4, width=32))


def sent(rows: np.ndarray, name: str, coding: str = "plain") -> torch.Tensor:
    wire_format = wire.get(name, coding)
    return wire_format.decode(wire_format.encode(rows), rows.shape)


@given(rows=logits, temperature=st.floats(0.01, 600))
def test_labels_are_one_hot_at_any_temperature(rows: np.ndarray, temperature: float) -> None:
    soft = torch.softmax(sent(rows, "labels") / temperature, -1)
    assert torch.equal(soft, torch.eye(rows.shape[1])[rows.argmax(-1)])


def test_a_row_at_a_tiny_temperature_is_its_largest_class() -> None:
    """Logits divided by it are infinite, their differences from the largest are not a number."""
    rows = np.array([[1e4, 2.0, 3.0], [-6e4, -3.0, -2.0]], np.float32)
    assert sent(rows, "simplex(temperature=1e-35)").argmax(-1).tolist() == [0, 2]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_labels_take_log2_of_the_classes(classes: int) -> None:
    rows = np.random.default_rng(0).normal(size=(5000, classes)).astype(np.float32)
    record = wire.get("labels").encode(rows)
    assert 8 * len(record["rows"].data) == pytest.approx(5000 * math.log2(classes), abs=80)
    assert np.array_equal(sent(rows, "labels").argmax(-1), rows.argmax(-1))


@given(rows=logits, bits=st.integers(1, 4), temperature=st.floats(0.1, 50))
def test_a_simplex_row_is_the_softmax_rounded_to_the_grid(rows: np.ndarray, bits: int, temperature: float) -> None:
    units = 2**bits - 1
    decoded = sent(rows, f"simplex(bits={bits}, temperature={temperature})").double()
    got = torch.softmax(decoded / temperature, -1) * units
    soft = torch.softmax(torch.from_numpy(rows).double() / temperature, -1) * units
    assert (got - got.round()).abs().max() < 1e-4
    assert torch.equal(got.round().sum(-1), torch.full(got.shape[:1], float(units), dtype=torch.float64))
    assert (got - soft).abs().max() < 1 + 1e-3  # largest remainders round each share up or down
    gap = soft - soft.floor()
    for up, down in itertools.product(range(rows.shape[1]), repeat=2):
        ups, downs = got[:, up].round() > soft[:, up] + 1e-3, got[:, down].round() < soft[:, down] - 1e-3
        assert (gap[:, up] >= gap[:, down] - 1e-3)[ups & downs].all()


@pytest.mark.parametrize(("bits", "classes"), [(1, 4), (2, 3), (2, 10), (3, 4)])
def test_all_points_of_the_simplex_have_a_number_of_their_own(bits: int, classes: int) -> None:
    units = 2**bits - 1
    counts = [c for c in itertools.product(range(units + 1), repeat=classes) if sum(c) == units]
    codec = Simplex(bits=bits)
    assert codec.alphabet(classes) == len(counts)
    with np.errstate(divide="ignore"):
        values = np.log(np.array(counts, np.float32) / units).clip(-wire.LARGEST)
    numbers = codec.encode(values)["rows"]
    assert sorted(numbers.tolist()) == list(range(len(counts)))
    with np.errstate(divide="ignore"):
        decoded = codec.decode({"rows": numbers}, values.shape)
    assert np.allclose(np.exp(decoded) * units, counts, atol=1e-5)


def test_a_row_of_the_default_grid_takes_7_point_8_bits() -> None:
    rows = np.random.default_rng(0).normal(size=(5000, 10)).astype(np.float32)
    assert 8 * len(wire.get("simplex").encode(rows)["rows"].data) / 5000 == pytest.approx(math.log2(220), abs=0.02)


@pytest.mark.parametrize("name", ["labels", "simplex(bits=3)"])
def test_a_thousand_classes_and_one_row(name: str) -> None:
    rows = np.random.default_rng(0).normal(size=(1, 1000)).astype(np.float32)
    rows[0, 7] = 30.0
    for coding in wire.CODINGS:
        assert sent(rows, name, coding).argmax() == 7


@pytest.mark.parametrize(
    ("name", "classes", "words"),
    [
        ("simplex(bits=4)", 1000, r"has too many points for 1000 classes \(allowed: bits = 1 to 3\)"),
        ("simplex(bits=8)", 20, r"for 20 classes \(allowed: bits = 1 to 6\)"),
        ("simplex(bits=0)", 10, "bits = 0"),
        ("simplex(bits=9)", 10, "bits = 9"),
        ("simplex(temperature=0.0)", 10, "temperature = 0.0"),
        ("labels", 1, "models with 1 class cannot be distilled"),
        ("float32", 1, "models with 1 class cannot be distilled"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_training(name: str, classes: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        wire.get(name).check(classes)


@pytest.mark.parametrize("name", ["labels", "simplex"])
def test_rows_that_are_not_finite_are_not_sent(name: str) -> None:
    with pytest.raises(InputError, match="NaN or Inf"):
        wire.get(name).encode(np.array([[0.0, np.nan]], np.float32))


@pytest.mark.parametrize("pooled", ["mean", "mean-logits", "pairwise"])
@pytest.mark.parametrize("name", dissimilarity.names())
@pytest.mark.parametrize("confident", [False, True])
def test_every_dissimilarity_is_finite_for_labels(name: str, pooled: str, confident: bool) -> None:
    """Also those that are infinite where the teacher excludes a class: it counts as the smallest normal number."""
    rows = np.random.default_rng(0).normal(size=(4, 6, 10)).astype(np.float32)
    decoded = torch.stack([sent(node, "labels") for node in rows])
    teacher = pooling.get(pooled)(decoded, uniform_matrix(build("ring", 4)), 1.0)[0]
    assert isinstance(teacher, Teacher)
    assert (teacher.soft_labels == 0).any()
    student = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)) * (1e3 if confident else 1.0)
    student.requires_grad_()
    values = dissimilarity.get(name, "none")(dissimilarity.soften(student, 1.0), teacher.soft_labels.log())
    values.sum().backward()
    assert values.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("coding", wire.CODINGS)
@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (1, 4)])
def test_teachers_keep_their_exact_values(coding: str, shape: tuple[int, ...]) -> None:
    labels = torch.softmax(torch.randn(shape, generator=torch.Generator().manual_seed(0)), -1)
    wire_format = wire.get("labels", coding)
    assert torch.equal(wire_format.decode_teacher(wire_format.encode_teacher(labels), shape), labels)


def test_a_teacher_of_votes_has_few_distinct_rows_and_few_bytes() -> None:
    votes = np.random.default_rng(0).integers(0, 10, (2, 5000))
    teacher = torch.eye(10)[votes].mean(0)
    plain, coded = (len(wire.get("labels", c).encode_teacher(teacher)["rows"].data) for c in ("plain", "entropy"))
    assert plain < 5000 * math.log2(55) / 8 + 55 * 40 + 60
    assert coded < plain - 1500
