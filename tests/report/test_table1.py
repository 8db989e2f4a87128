"""Table I of the report, against numbers computed by hand."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from flower_kd import models, sim
from flower_kd.cli.commands import app
from flower_kd.report import table1
from flower_kd.report.table1 import Exchanges

# By hand, from the layers on CIFAR-10, without biases and normalization.
LENET5 = 3 * 6 * 25 + 6 * 16 * 25 + 400 * 120 + 120 * 84 + 84 * 10
RESNET8 = 3 * 16 * 9 + 2 * 16 * 16 * 9 + (16 + 32) * 32 * 9 + (32 + 64) * 64 * 9 + 64 * 10
RESNET14 = RESNET8 + 2 * 9 * (16 * 16 + 32 * 32 + 64 * 64)


@pytest.fixture(scope="module")
def found():
    return table1.rows("lenet5,resnet8,resnet14,resnet14(prune=0.8)", Exchanges()).set_index("model")


def test_the_weights_are_those_counted_by_hand(found):
    assert (LENET5, RESNET8, RESNET14) == (61_770, 74_800, 171_568)
    assert found["weights"].tolist()[:3] == [LENET5, RESNET8, RESNET14]
    assert found.loc["lenet5", "parameters"] == LENET5 + 6 + 16 + 120 + 84 + 10


def test_by_tensors_the_report_s_d_dist_figure_is_met_exactly(found):
    assert Exchanges().number == 29_600
    assert set(found["d-dist-tensors"]) == {40}
    assert found["d-dist-tensors-mb"].round(3).tolist() == [1.129] * 4  # 29,600 * 40 / 2^20
    assert found.loc["lenet5", "d-sgd-tensors"] == 4 * 61_770
    assert found.loc["lenet5", "d-sgd-tensors-mb"] == pytest.approx(6974.76, abs=0.005)
    assert found.loc["resnet14", "ratio-tensors"] == 171_568 / 10


def test_the_report_s_figures_imply_whole_numbers_of_weights_for_one_row_and_37_batches():
    found = table1.implied(Exchanges()).set_index("figure")
    rows = found["implies"]
    assert rows["D-Dist: 1.129 MB"] == "29,596 rows of 10 float32"  # 29,600 are 1.12915 MB
    assert found["rows"].round(2).tolist() == [1.00, 1.40, 0.84, 0.93, 1.40, 0.93]
    assert found["rows"].iloc[1] == pytest.approx(61_770 / 44_190, rel=1e-3)
    # LeNet-5 on 28 x 28 gray images: 4 x 4 features are left without padding.
    by_hand = 1 * 6 * 25 + 6 * 16 * 25 + 16 * 16 * 120 + 120 * 84 + 84 * 10
    assert by_hand == 44_190 == 4419 * 10
    assert rows["D-SGD, lenet5: 4989.71 MB"] == "44,190 float32 weights"
    assert pytest.approx(4989.71, abs=0.01) == 44_190 * 4 * 29_600 / 2**20
    # Its ResNets differ by as much as ours do, that is in their residual blocks.
    assert rows["D-SGD, resnet8: 9994.34 MB"] == f"{RESNET8 + 13_712:,} float32 weights"
    assert rows["D-SGD, resnet14: 20920.90 MB"] == f"{RESNET14 + 13_712:,} float32 weights"
    assert rows["D-SGD over D-Dist, resnet14: 18,528"] == f"{RESNET14 + 13_712:,} weights to a row of 10"


def test_other_assumptions_imply_other_rows():
    found = table1.implied(Exchanges(epochs=800, batches=74, rows=2)).set_index("figure")
    rows = found["implies"]
    assert found["rows"].iloc[0] == pytest.approx(0.5, rel=1e-3)
    assert rows["D-SGD, lenet5: 4989.71 MB"] == "22,095 float32 weights"
    half = table1.rows("lenet5", Exchanges(epochs=400, batches=37, rows=50)).iloc[0]
    assert half["d-dist-tensors"] == 50 * 40
    assert half["d-dist-tensors-mb"] == pytest.approx(400 * 37 * 2000 / 2**20)
    assert half["labels-tensors"] == 21  # 50 * 3.32 bits


def test_a_pruned_model_costs_what_it_keeps(found):
    pruned, whole = found.loc["resnet14(prune=0.8)"], found.loc["resnet14"]
    layers = [p.numel() for name, p in models.build("resnet14", 10, (3, 32, 32)).named_parameters() if p.ndim > 1]
    kept = sum(count - round(0.8 * count) for count in layers)
    assert pruned["weights"] == kept
    assert pruned["parameters"] == whole["parameters"]
    assert pruned["kept"] == whole["parameters"] - 171_568 + kept
    assert whole["d-sgd-message"] - pruned["d-sgd-message"] == pytest.approx(4 * (171_568 - kept), rel=0.01)
    bits = sum(-(-count // 8) for count in layers)
    assert whole["file"] - pruned["file"] == pytest.approx(4 * (171_568 - kept) - bits, rel=0.01)


def test_messages_are_those_of_a_run(tmp_path, monkeypatch):
    """The sizes that nodes really send, on the digits: the sizes of metrics differ by a byte or two."""
    monkeypatch.setattr(table1, "IMAGE", (1, 8, 8))
    config = {"num-server-rounds": 2, "local-steps": 1, "samples-per-node": 20, "baseline": "none", "model": "lenet5"}
    row = table1.rows("lenet5", Exchanges(rows=40)).iloc[0]
    for strategy, column in (("d-sgd", "d-sgd-message"), ("d-dist", "d-dist-message")):
        of_run = {**config, "strategy": strategy, "reference-size": 40}
        sent = sim.run(of_run, num_nodes=2, output_dir=tmp_path / strategy).bytes["per_message"]
        assert row[column] == pytest.approx(sent, abs=4)


def test_the_command_writes_csv_markdown_and_latex(tmp_path: Path):
    options = ["--models", "lenet5,lenet5(prune=0.5)", "--rows", "3", "--output-dir", str(tmp_path)]
    result = CliRunner().invoke(app, ["table1", *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "29,600 exchanges: 800 epochs (--epochs) of 37 batches" in " ".join(result.output.split())
    stems = ["table1-implied", "table1-messages", "table1-tensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["table1.csv", *(f"{stem}{suffix}" for stem in stems for suffix in (".md", ".tex"))]
    )
    with (tmp_path / "table1.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["model"] for row in rows] == ["lenet5", "lenet5(prune=0.5)"]
    assert rows[0]["d-dist-tensors"] == "120"
    assert "6,974.76" in (tmp_path / "table1-tensors.md").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--models", "lenet"], "unknown model 'lenet', did you mean 'lenet5'"),
        (["--models", "lenet5(prune=1.0)"], "model 'lenet5': prune = 1.0 must be at least 0 and below 1"),
        (["--rows", "0"], "'--rows'"),
    ],
)
def test_mistakes(words: list[str], sentence: str, tmp_path: Path):
    result = CliRunner().invoke(app, ["table1", *words, "--output-dir", str(tmp_path / "out")])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


def test_weights_are_counted_with_pruned_ones_and_without_biases():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert table1.num_weights(model) == 12 + 8
    models.pruning.prune_smallest(model, 0.5)
    assert table1.num_weights(model) == 20
    assert torch.is_tensor(model[0].weight)
