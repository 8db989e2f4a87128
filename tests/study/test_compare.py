import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import drawn_pictures
from typer.testing import CliRunner

from flower_kd import folders
from flower_kd.cli.commands import app
from flower_kd.runs import results
from flower_kd.study import seeds

SHORT = "num-server-rounds=2 local-steps=2 samples-per-node=20 reference-size=40"


def compare(folder: Path, *words: object, config: str = SHORT) -> Result:
    options = ["compare", "--num-nodes", 2, "--output-dir", folder, "-c", config, *words]
    return CliRunner().invoke(app, [str(word) for word in options])


def stamps(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/summary.json")}


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "comparison.csv").open() as lines:
        return {row["run"]: row for row in csv.DictReader(lines)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    compare(folder, "--strategies", "silo,d-sgd,neighbor-kd", "--seeds", 3)
    with drawn_pictures():  # of the comparison: the runs are there
        result = compare(folder, "--strategies", "silo,d-sgd,neighbor-kd", "--seeds", 3)
    assert result.exit_code == 0, result.output
    assert "95% confidence" in result.output
    output = " ".join(result.output.split())
    assert "common initial weights: d-sgd; separate initial weights: silo, neighbor-kd" in output
    return folder


def test_a_comparison_is_every_strategy_with_every_seed(compared: Path) -> None:
    entries = json.loads((compared / "comparison.json").read_text())
    assert [(entry["run"], entry["seed"]) for entry in entries] == [
        (label, seed) for label in ("silo", "d-sgd", "neighbor-kd") for seed in (0, 1, 2)
    ]
    for entry in entries:
        run = results.read(compared / entry["folder"])
        assert run.summary.accuracy == entry["accuracy"]
        assert run.config.baseline == "none"
    assert not (compared / "failed.json").exists()
    for name in folders.picture_names("comparison"):
        assert (compared / name).stat().st_size > 1000


def test_the_table_says_mean_interval_bytes_and_ratio(compared: Path) -> None:
    entries = json.loads((compared / "comparison.json").read_text())
    for label, row in table(compared).items():
        own = [entry for entry in entries if entry["run"] == label]
        means = [entry["accuracy"]["mean"] for entry in own]
        assert float(row["accuracy"]) == pytest.approx(np.mean(means))
        assert float(row["accuracy-high"]) - float(row["accuracy"]) == pytest.approx(
            4.302653 * np.std(means, ddof=1) / np.sqrt(3)
        )
        assert float(row["spread"]) == pytest.approx(np.mean([entry["accuracy"]["std"] for entry in own]))
        assert float(row["mb-per-edge"]) == pytest.approx(own[0]["bytes"]["per_edge"] / 1e6, rel=0.01)
        assert row["initial-weights"] == own[0]["initial_weights"] == ("common" if label == "d-sgd" else "separate")
        assert float(row["mb-per-node"]) == pytest.approx(float(row["mb-per-edge"]))  # two nodes have one edge
        sent = float(row["kb-per-message"]) * float(row["messages-per-edge"]) / 1e3
        assert float(row["mb-per-edge"]) == pytest.approx(sent)
        assert (row["exchanges-due"], row["exchanges-missed"], row["diverged"]) == ("12", "0", "0")
    rows = table(compared)
    assert rows["silo"]["d-sgd-times-same-frequency"] == rows["silo"]["d-sgd-times-every-step"] == ""
    assert (rows["neighbor-kd"]["messages-per-edge"], rows["d-sgd"]["messages-per-edge"]) == ("1.0", "2.0")
    assert float(rows["d-sgd"]["d-sgd-times-same-frequency"]) == pytest.approx(1, rel=0.02)
    # One exchange per round of two steps; the last of two has no logits.
    for label, steps in (("neighbor-kd", 4), ("d-sgd", 2)):
        as_often, every_step = (float(rows[label][f"d-sgd-times-{n}"]) for n in ("same-frequency", "every-step"))
        assert every_step == pytest.approx(steps * as_often)


def test_the_tables_for_papers_have_the_figures_of_the_csv(compared: Path) -> None:
    tex, markdown = ((compared / f"comparison.{suffix}").read_text() for suffix in ("tex", "md"))
    for label, row in table(compared).items():
        half = float(row["accuracy-high"]) - float(row["accuracy"])
        assert rf"{label} & {float(row['accuracy']):.3f} $\pm$ {half:.3f} & " in tex
        assert f"| {label} | {float(row['accuracy']):.3f} ± {half:.3f} | " in markdown
    for text in (tex, markdown):
        assert "Runs have common initial weights: d-sgd; separate initial weights: silo, neighbor-kd." in text
        assert "accuracy (3 seeds)" in text


def test_exchanges_that_nodes_missed_are_in_the_table(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shutil.copytree(compared, tmp_path / "compare")
    path = tmp_path / "compare" / "runs" / "d-sgd-seed1" / "summary.json"
    summary = json.loads(path.read_text())
    summary["participation"][1] = {"due": 2, "taken": 1, "reasons": {"late": 1}}
    summary["diverged"] = [0]
    path.write_text(json.dumps(summary))
    again = compare(tmp_path / "compare", "--strategies", "silo,d-sgd,neighbor-kd", "--seeds", 3)
    assert again.exit_code == 0, again.output
    row = table(tmp_path / "compare")["d-sgd"]
    assert (row["exchanges-due"], row["exchanges-missed"], row["diverged"]) == ("12", "1", "1")
    assert "1 of 12 exchanges missed" in again.output
    assert "1 node diverged" in again.output
    assert "d-sgd: 1 of 12 exchanges missed, 1 node diverged." in (tmp_path / "compare" / "comparison.md").read_text()


def test_labels_are_no_markup_on_the_screen(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text('[runs."[/x] a"]\nstrategy = "silo"\n[runs.b]\nstrategy = "fedavg"\n')
    result = compare(tmp_path / "results", tmp_path / "e.toml")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "common initial weights: b; separate initial weights: [/x] a" in output


def test_tables_say_in_which_settings_of_training_runs_differ(compared: Path, tmp_path: Path) -> None:
    assert "Runs differ" not in (compared / "comparison.md").read_text()
    text = "[runs.a]\nstrategy='silo'\n[runs.b]\nstrategy='neighbor-kd'\nrho=2.0\n[runs.c]\nstrategy='silo'\n"
    (tmp_path / "e.toml").write_text(f"{text}learning-rate=0.2\nreference-augment='noise'\n")
    result = compare(tmp_path / "results", tmp_path / "e.toml")
    assert result.exit_code == 0, result.output
    assert "runs differ in learning-rate (c: 0.2; others: 0.1)" in " ".join(result.output.split())
    for suffix in ("md", "tex"):
        table = (tmp_path / "results" / f"comparison.{suffix}").read_text()
        assert "Runs differ in learning-rate (c: 0.2; others: 0.1)." in table


def test_a_run_that_says_nothing_is_a_failed_row(tmp_path: Path) -> None:
    result = compare(tmp_path, "--strategies", "silo,d-sgd", config=f"{SHORT} learning-rate=1000.0 topology='ring'")
    assert result.exit_code == 1
    assert "d-sgd-seed0 failed: every node diverged" in result.stderr.replace("silo-seed0, ", "")
    assert "every node diverged" in table(tmp_path)["d-sgd"]["error"]


def test_the_same_command_runs_nothing_again_and_another_is_refused(compared: Path) -> None:
    before = stamps(compared)
    again = compare(compared, "--strategies", "silo,d-sgd,neighbor-kd", "--seeds", 3)
    assert again.exit_code == 0
    assert "neighbor-kd" in again.output
    for words in (("--strategies", "silo"), ("--seeds", "0,1")):
        result = compare(compared, *words)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert f"output-dir '{compared}' already contains other runs" in result.stderr
        assert "--resume" in result.stderr
    assert compare(compared, "--seeds", 3, config=f"{SHORT} momentum=0.5").exit_code == 2
    assert stamps(compared) == before
    assert len(json.loads((compared / "comparison.json").read_text())) == 9


def test_resume_keeps_what_fits_and_overwrite_keeps_nothing(tmp_path: Path) -> None:
    assert compare(tmp_path, "--strategies", "silo,fedavg").exit_code == 0
    before = stamps(tmp_path)
    (tmp_path / "runs" / "fedavg-seed0" / "summary.json").unlink()
    assert compare(tmp_path, "--strategies", "silo,fedavg,d-dist", "--seeds", "0,4", "--resume").exit_code == 0
    after = stamps(tmp_path)
    assert len(after) == 6
    assert after["silo-seed0"] == before["silo-seed0"]
    assert after["fedavg-seed0"] > before["fedavg-seed0"]
    assert table(tmp_path)["silo"]["interval"] == "lowest to highest"
    (tmp_path / "runs" / "silo-seed0" / "notes.txt").write_text("mine")
    assert compare(tmp_path, "--strategies", "fedavg", "--overwrite").exit_code == 0
    assert list(stamps(tmp_path)) == ["fedavg-seed0"]
    assert stamps(tmp_path)["fedavg-seed0"] > after["fedavg-seed0"]
    assert [path.name for path in (tmp_path / "runs" / "silo-seed0").iterdir()] == ["notes.txt"]


def test_a_strategy_that_cannot_run_is_a_failed_row(tmp_path: Path) -> None:
    result = compare(tmp_path, "--strategies", "d-sgd,silo", config=f"{SHORT} model='mlp,lenet5'")
    assert result.exit_code == 1
    assert "d-sgd-seed0 failed: strategy 'd-sgd' averages weights" in result.stderr
    assert [entry["run"] for entry in json.loads((tmp_path / "comparison.json").read_text())] == ["silo"]
    (failed,) = json.loads((tmp_path / "failed.json").read_text())
    assert (failed["run"], failed["seed"]) == ("d-sgd", 0)
    assert "averages weights" in failed["error"]
    assert table(tmp_path)["d-sgd"]["accuracy"] == ""
    assert "averages weights" in table(tmp_path)["d-sgd"]["error"]
    assert compare(tmp_path, "--strategies", "silo", config=f"{SHORT} model='mlp,lenet5'").exit_code == 0
    assert not (tmp_path / "failed.json").exists()


def test_a_run_that_breaks_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("def factory(*args, **kwargs):\n    raise RuntimeError('no\\nmodel')\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "file.toml").write_text(
        "[common]\nstrategy = 'silo'\n[runs.bad]\nmodel = 'broken:factory'\n[runs.'a/b']\nmodel = 'mlp'\n"
    )
    result = compare(tmp_path / "out", tmp_path / "file.toml")
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1
    (entry,) = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (entry["run"], entry["folder"]) == ("a/b", "runs/a%2Fb-seed0")
    (failed,) = json.loads((tmp_path / "out" / "failed.json").read_text())
    assert failed["run"] == "bad"
    assert "\n" not in failed["error"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[common]\nseed = 1\n", "has no run"),
        ("strategy = 'silo'\n[runs.a]\n", "has an unknown top-level key 'strategy'"),
        ("[runs]\na = 1\n", "must be a table"),
        ("[runs.a\n", "is not a valid TOML file"),
        ("[runs.a]\nstrategy = 'silo'\nseed = [1]\n", "seed"),
        ("[runs.a]\noutput-dir = 'x'\n", "use --output-dir"),
        ("[runs.a]\ngama = 1.0\n", "unknown key 'gama'"),
    ],
)
def test_mistakes_in_an_experiment_file(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file.toml").write_text(text)
    result = compare(tmp_path / "out", tmp_path / "file.toml")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--strategies", "silo,fedsgd"], "unknown strategy 'fedsgd'"),
        (["--strategies", "silo,silo"], "lists 'silo' twice"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--seeds", "a"], "--seeds 'a' must be a number of seeds"),
        (["--strategies", "silo", "--only", "silo"], "--only 'silo' selects runs of an experiment"),
        (["--only", "nothing"], "unknown run 'nothing'"),
        (["preset:digits", "-c", "strategy='silo'"], "use --only for some runs of an experiment"),
        (["nowhere.toml"], "'nowhere.toml' cannot be read"),
        (["-c", "strategy='silo'"], "or --strategies without an experiment"),
        (["-c", "temperature=0.0"], "temperature = 0.0 must be above 0"),
        (["-c", "overwrite=true"], "use --overwrite"),
        (["-c", "seed='x'"], "seed = 'x' must be a whole number"),
        (["--resume", "--overwrite"], "cannot be used together"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], sentence: str, tmp_path: Path) -> None:
    result = compare(tmp_path / "out", *words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_default_is_the_experiment_on_digits(tmp_path: Path) -> None:
    result = compare(tmp_path / "out", "--only", "silo,neighbor-kd")
    assert result.exit_code == 0, result.output
    assert list(table(tmp_path / "out")) == ["silo", "neighbor-kd"]
    run = results.read(tmp_path / "out" / "runs" / "neighbor-kd-seed0")
    assert (run.config.wire, run.config.schedule, run.config.dataset) == ("labels", "cosine", "digits")


def test_seeds() -> None:
    assert seeds.parse("3", 5) == [5, 6, 7]
    assert seeds.parse("4,", 5) == [4]
