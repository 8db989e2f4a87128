import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from conftest import drawn_pictures
from typer.testing import CliRunner

from flower_kd import folders
from flower_kd.cli.commands import app
from flower_kd.errors import InputError
from flower_kd.study import batch, grid
from flower_kd.study.sweep import Sweep

SHORT = "strategy='neighbor-kd' num-server-rounds=2 local-steps=2 samples-per-node=20 reference-size=40"


def words(folder: Path, *more: object) -> list[str]:
    return [str(word) for word in ("sweep", "--num-nodes", 2, "--output-dir", folder, "-c", SHORT, *more)]


def sweep(folder: Path, *more: object) -> Result:
    return CliRunner().invoke(app, words(folder, *more))


def test_a_sweep_is_every_combination_with_every_seed(tmp_path: Path) -> None:
    options = ("--grid", "temperature=1,2.5", "--grid", "dissimilarity=kl,js", "--seeds", "0,4")
    sweep(tmp_path, *options)
    with drawn_pictures():  # of the sweep: the runs are there
        result = sweep(tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert "4 settings by accuracy" in result.output
    table = pd.read_csv(tmp_path / "sweep.csv", keep_default_na=False)
    assert table.columns.tolist() == [
        *("temperature", "dissimilarity", "seed", "accuracy", "accuracy-std"),
        *("bytes-per-edge", "bytes-per-node", "seconds", "exchanges-missed", "error", "folder"),
    ]
    assert [tuple(row) for row in table[["temperature", "dissimilarity", "seed"]].itertuples(index=False)] == [
        (temperature, name, seed) for temperature in (1.0, 2.5) for name in ("kl", "js") for seed in (0, 4)
    ]
    assert table["folder"][1] == "runs/temperature=1,dissimilarity=kl-seed4"
    assert (table["error"] == "").all()
    for _, row in table.iterrows():
        summary = json.loads((tmp_path / row["folder"] / "summary.json").read_text())
        assert summary["accuracy"]["mean"] == row["accuracy"]
        assert summary["baseline"] is None
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "sweep.parquet"), table, check_dtype=False)
    for name in folders.picture_names("sweep"):
        assert (tmp_path / name).stat().st_size > 1000
    means = table.groupby(["temperature", "dissimilarity"])["accuracy"].mean()
    for suffix, start in (("tex", "1 & kl & "), ("md", "| 1 | kl | ")):
        assert f"{start}{means[1.0, 'kl']:.3f} (" in (tmp_path / f"sweep.{suffix}").read_text()
    about = json.loads((tmp_path / "sweep.json").read_text())
    assert about["grid"] == {"temperature": [1.0, 2.5], "dissimilarity": ["kl", "js"]}
    assert (about["num_nodes"], about["seeds"], about["config"]["num-server-rounds"]) == (2, [0, 4], 2)
    other = sweep(tmp_path, "--grid", "temperature=1")
    assert (other.exit_code, "already contains other runs" in other.stderr) == (2, True)


def test_runs_that_fail_are_rows_with_their_error(tmp_path: Path) -> None:
    result = sweep(tmp_path, "--grid", "dataset=digits,./nowhere")
    assert result.exit_code == 1
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert table["accuracy"].notna().tolist() == [True, False]
    assert "the folder does not exist" in table["error"][1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("temprature=1", "unknown key 'temprature', did you mean 'temperature'?"),
        ("pooling_self=true,false", "write strategy = 'neighbor-kd(pooling_self=...)'"),
        ("seed=1,2", "seed cannot be swept, use --seeds"),
        ("output-dir=a", "use --output-dir"),
        ("temperature", "must have the form key=value,value"),
        ("topology=regular(degree=4", "cannot be read: a ) is missing"),
        (
            "degree=4,8",
            "degree is now a setting of the topology: write --grid topology=regular(degree=4),regular(degree=8",
        ),
        ("temperature=1,hot", "--grid temperature: 'hot' must be a number"),
        ("local-steps=1.5", "'1.5' must be a whole number"),
        ("resume=yes", "'yes' must be true or false"),
        ("alpha=0,0.0", "lists 0 twice"),
        ("alpha=", "'' must be a number"),
    ],
)
def test_mistakes_in_a_grid(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        grid.parse([text])
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_values_have_the_type_of_their_key() -> None:
    parsed = grid.parse(["temperature=1,10", "local-steps=5", "resume=true,false", "model='mlp,lenet5',mlp"])
    assert parsed == {
        "temperature": [1.0, 10.0], "local-steps": [5], "resume": [True, False], "model": ["mlp,lenet5", "mlp"],
    }  # fmt: skip
    assert all(type(value) is float for value in parsed["temperature"])
    labels = list(grid.combinations(parsed))
    assert len(labels) == len(set(labels)) == 8
    assert labels[0] == "temperature=1,local-steps=5,resume=true,model=mlp%2Clenet5"


def test_values_may_have_arguments() -> None:
    texts = ["topology=ring, small-world(degree=2, rewire_probability=0.5),regular(degree=4)", "dissimilarity=kl,'js'"]
    parsed = grid.parse(texts)
    assert parsed == {
        "topology": ["ring", "small-world(degree=2, rewire_probability=0.5)", "regular(degree=4)"],
        "dissimilarity": ["kl", "js"],
    }
    labels = list(grid.combinations(parsed))
    assert labels[2] == "topology=small-world(degree=2, rewire_probability=0.5),dissimilarity=kl"
    names = [folders.file_name_of(label) for label in labels]
    assert names[2] == labels[2]
    assert len(set(names)) == len(set(labels)) == 6


def test_labels_of_values_with_commas_are_distinct() -> None:
    values = {"model": ["mlp", "mlp,dissimilarity=js", "x(a=1,b=2)"], "dissimilarity": ["js", "kl"]}
    assert len(grid.combinations(values)) == 6


def test_a_run_is_called_in_the_terminal_as_it_was_written(tmp_path: Path) -> None:
    combinations = grid.combinations({"wire": ["math:sqrt(x=1)"]})
    (job,) = batch.jobs(combinations, "1", 2, tmp_path)
    assert (job.name, job.folder.name) == ("wire=math:sqrt(x=1)-seed0", "wire=math%3Asqrt(x=1)-seed0")


def test_the_best_settings_are_counted(tmp_path: Path) -> None:
    config = {"strategy": "silo", "num-server-rounds": 1, "local-steps": 1, "samples-per-node": 20}
    study = Sweep(config, {"learning-rate": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, "1", 2, tmp_path)
    study.run()
    assert (study.best().title, study.best().row_count) == ("the 5 best of 6 settings", 5)


def test_no_run_begins_if_a_combination_cannot(tmp_path: Path) -> None:
    result = sweep(tmp_path / "out", "--grid", "alpha=0.5,2", "--grid", "topology=ring,torus")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "3 of 4 combinations cannot run" in result.stderr
    assert "alpha = 2.0 must be at least 0 and at most 1" in result.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_finished_runs_and_the_same_command_continues(tmp_path: Path) -> None:
    options = ("--grid", "num-server-rounds=2,400")
    script = "from flower_kd.cli.commands import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words(tmp_path, *options, "--jobs", 2)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/summary.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors.count("\n") == 1
    assert "1 of 2 runs are finished" in errors
    assert "to continue, repeat the command" in errors
    deadline = time.monotonic() + 60
    while running(process.pid) and time.monotonic() < deadline:  # multiprocessing's own resource tracker ends last
        time.sleep(0.02)
    assert not running(process.pid)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/summary.json")}
    assert pd.read_csv(tmp_path / "sweep.csv")["num-server-rounds"].tolist() == [2]
    assert not list(tmp_path.rglob(".*.partial"))
    again = sweep(tmp_path, *options)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(tmp_path.glob("runs/*/summary.json"))) == 2


def running(session: int) -> list[str]:
    """Return the states of the live processes of a session."""
    listed = subprocess.run(["ps", "-e", "-o", "sid=,stat="], capture_output=True, text=True, check=True).stdout
    states = [line.split() for line in listed.splitlines()]
    return [state for sid, state in states if int(sid) == session and not state.startswith("Z")]


def test_a_part_has_one_label_however_it_is_written() -> None:
    assert grid.parse(["topology=ring( ),regular( degree = 4 )"]) == {"topology": ["ring", "regular(degree=4)"]}
    with pytest.raises(InputError, match=r"lists regular\(degree=4\) twice"):
        grid.parse(["topology=regular(degree=4),regular( degree=4, )"])
