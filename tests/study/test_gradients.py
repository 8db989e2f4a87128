from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from flower_kd.errors import InputError
from flower_kd.report import pictures
from flower_kd.study import gradients


def failing(log_p: Tensor, log_q: Tensor) -> Tensor:
    raise ValueError("no")


def flat(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p - log_q).abs().sum()


def linear(log_p: Tensor, log_q: Tensor) -> Tensor:
    return -(log_q.exp() * log_p).sum(-1) * 3


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return gradients.measure(["kl", "js", "sed", "msed", "reverse-kl"], [1.0, 10.0], [10, 50])


def only(rows: pd.DataFrame, **values: object) -> pd.Series:
    found = rows
    for name, value in values.items():
        found = found[found[name] == value]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_of_kl_is_the_difference_of_predictions(temperature: float) -> None:
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    difference = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    assert torch.allclose(
        gradients.gradient_norms("kl", student, teacher, temperature), difference.norm(dim=-1) / temperature
    )


def test_students_that_are_sure_and_wrong_learn_from_kl_only(rows: pd.DataFrame) -> None:
    pair = {"classes": 10, "temperature": 1.0, "pair": "disagree", "student": 0.999999, "teacher": 0.9}
    assert only(rows, dissimilarity="kl", **pair)["state"] == "fine"
    assert only(rows, dissimilarity="kl", **pair)["ratio"] == pytest.approx(1.0, rel=1e-4)
    for bounded in ("js", "sed", "reverse-kl"):
        assert only(rows, dissimilarity=bounded, **pair)["state"] == "vanishes"


def test_excluded_classes_explode_where_their_logarithm_counts(rows: pd.DataFrame) -> None:
    pair = {"classes": 10, "temperature": 10.0, "pair": "disagree", "student": 0.5, "teacher": 1.0}
    assert only(rows, dissimilarity="reverse-kl", **pair)["state"] == "explodes"
    assert only(rows, dissimilarity="kl", **pair)["state"] == "fine"
    assert rows["norm"].notna().all()


def test_equal_predictions_have_nothing_to_learn(rows: pd.DataFrame) -> None:
    pair = {"classes": 50, "temperature": 1.0, "pair": "agree", "student": 0.9, "teacher": 0.9}
    equal = only(rows, dissimilarity="kl", **pair)
    assert equal["state"] == "equal"
    assert equal["norm"] < 1e-6
    dark = only(rows, dissimilarity="kl", **(pair | {"pair": "dark"}))
    assert dark["state"] == "fine"


def test_probabilities_are_those_that_the_table_says() -> None:
    pairs, student, teacher = gradients._predictions(10)
    same = torch.tensor((pairs["pair"] != "disagree").tolist())
    given = torch.tensor(pairs[["student", "teacher"]].to_numpy())
    assert torch.allclose(student.softmax(-1)[:, 0], given[:, 0])
    assert torch.allclose(teacher.softmax(-1)[same, 0], given[same, 1])
    assert torch.allclose(teacher.softmax(-1)[~same, 1], given[~same, 1])


def test_a_multiway_one_has_one_teacher(rows: pd.DataFrame) -> None:
    norms = rows.pivot_table("norm-float64", ["classes", "temperature", "pair", "student", "teacher"], "dissimilarity")
    assert norms["msed"].to_numpy() == pytest.approx(norms["sed"].to_numpy(), rel=1e-6, abs=1e-12)


def test_shares_by_temperature_and_by_confidence(rows: pd.DataFrame) -> None:
    found = gradients.by_temperature(rows)
    of_js = rows[(rows["dissimilarity"] == "js") & (rows["classes"] == 50) & (rows["state"] != "equal")]
    at_1 = of_js[of_js["temperature"] == 1]
    assert found.loc[(50, "js"), 1.0] == pytest.approx((at_1["state"] == "vanishes").mean())
    assert found.loc[(50, "js"), "largest"] == of_js["scaled"].max()
    assert found.loc[(10, "reverse-kl"), "explodes"] > 0
    by_confidence = gradients.by_confidence(rows)
    assert by_confidence.loc[("js", "another class"), 0.999999] == 1
    assert (by_confidence.loc["kl"] == 0).all(axis=None)


def test_files(rows: pd.DataFrame, tmp_path: Path) -> None:
    names = gradients.write(tmp_path / "new", rows)
    assert set(names) == {f"gradients.{kind}" for kind in ("csv", "parquet", "tex", "md", "png", "pdf", "svg")}
    kept = pd.read_csv(tmp_path / "new" / "gradients.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(kept, rows, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new" / "gradients.parquet"), rows)
    assert "reverse-kl" in (tmp_path / "new" / "gradients.md").read_text()


def test_a_panel_per_temperature_and_number_of_classes(rows: pd.DataFrame) -> None:
    figure = pictures.gradients(rows, gradients.VANISHES, gradients.EXPLODES)
    assert len(figure.axes) == 4
    assert all(len(axes.lines) == 5 for axes in figure.axes)
    with pytest.raises(InputError, match="no pair"):
        pictures.gradients(rows[rows["pair"] == "agree"], gradients.VANISHES, gradients.EXPLODES)


def test_parts_from_outside() -> None:
    name = f"{__name__}:linear"
    rows = gradients.measure(["kl", name], [2.0], [3]).set_index("dissimilarity")
    assert rows.loc[name, "norm-float64"].to_numpy() == pytest.approx(
        3 * rows.loc["kl", "norm-float64"].to_numpy(), abs=1e-12
    )


@pytest.mark.parametrize(("name", "words"), [("failing", "fails: ValueError: no"), ("flat", "values of shape")])
def test_what_fails_is_named(name: str, words: str) -> None:
    with pytest.raises(InputError, match=f"dissimilarity '{__name__}:{name}'.*{words}"):
        gradients.measure([f"{__name__}:{name}"], [1.0], [4])


def test_options() -> None:
    assert gradients.parse("kl, js", "1,10,1", "10") == (["kl", "js"], [1.0, 10.0], [10])
    names, temperatures, classes = gradients.parse("", "", "")
    assert {"kl", "td"} < set(names)
    assert (temperatures, classes) == ([1, 2, 10, 100], [10, 100, 1000])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("nope", "", ""), "unknown dissimilarity 'nope'"),
        (("a(b", "", ""), "--dissimilarities"),
        (("", "0", ""), "--temperatures = 0.0 must be above 0"),
        (("", "1,inf", ""), "--temperatures '1,inf' must be numbers"),
        (("", "", "ten"), "--classes 'ten' must be numbers"),
        (("", "", "1"), "--classes = 1 must be at least 2"),
        (("", "", "2.5"), "--classes = 2.5 must be a whole number"),
        (("", "", "1e9"), "at most"),
    ],
)
def test_wrong_options(options: tuple[str, str, str], words: str) -> None:
    with pytest.raises(InputError) as error:
        gradients.parse(*options)
    assert words in str(error.value)
