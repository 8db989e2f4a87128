"""Experiment files: scales, and the number of nodes that an experiment is for."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flower_kd.cli import run_config
from flower_kd.cli.commands import app
from flower_kd.errors import InputError
from flower_kd.study import experiment

FILE = """
[common]
num-nodes = 3
rho = 1.0
num-server-rounds = 800
local-steps = 40

[runs.silo]
strategy = "silo"

[runs.d-sgd]
strategy = "d-sgd"
local-steps = 20

[scale.small]
num-server-rounds = 2
local-steps = 4
samples-per-node = 20

[scale.small.runs.d-sgd]
local-steps = 2
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file.toml").write_text(FILE)
    return tmp_path / "file.toml"


def test_without_a_scale_the_runs_are_as_they_are(path: Path) -> None:
    runs = experiment.read(path, {})
    assert runs["silo"] == {
        **{"num-nodes": 3, "rho": 1.0, "num-server-rounds": 800, "local-steps": 40},
        **{"strategy": "silo"},
    }
    assert runs["d-sgd"]["local-steps"] == 20


def test_a_scale_overrides_what_is_common_and_its_runs_the_runs(path: Path) -> None:
    runs = experiment.read(path, {}, scale="small")
    assert runs["silo"] == {
        **{"num-nodes": 3, "rho": 1.0, "num-server-rounds": 2, "local-steps": 4, "samples-per-node": 20},
        **{"strategy": "silo"},
    }
    assert runs["d-sgd"]["local-steps"] == 2
    path.write_text(FILE.replace("[scale.small.runs.d-sgd]\nlocal-steps = 2\n", ""))
    assert experiment.read(path, {}, scale="small")["d-sgd"]["local-steps"] == 20  # what a run sets stays
    overridden = experiment.read(path, {"local-steps": 1, "num-nodes": 5}, scale="small")
    assert [(run["local-steps"], run["num-nodes"]) for run in overridden.values()] == [(1, 5), (1, 5)]


@pytest.mark.parametrize(
    ("change", "scale", "words"),
    [
        ("", "smal", r"unknown scale 'smal', did you mean 'small'\? \(allowed: small\)"),
        ("[scale.tiny]\n", "big", r"unknown scale 'big' \(allowed: small, tiny\)"),
        ("[scale.tiny.runs.fedavg]\n", "tiny", r"\[scale.tiny.runs.fedavg\]: unknown run 'fedavg'"),
        ("[scale.tiny]\nruns = 1\n", "tiny", r"\[scale.tiny\] and each \[scale.tiny.runs.LABEL\] must be a table"),
        ("[scale]\ntiny = 1\n", "tiny", "must be a table"),
    ],
)
def test_mistakes(change: str, scale: str, words: str, path: Path) -> None:
    path.write_text(FILE + change)
    with pytest.raises(InputError, match=words):
        experiment.read(path, {}, scale=scale)


def test_a_file_without_scales(path: Path) -> None:
    path.write_text(FILE.partition("[scale")[0])
    with pytest.raises(InputError, match=r"scale 'small': experiment '.*' has no scales"):
        experiment.read(path, {}, scale="small")


def test_the_number_of_nodes_of_the_runs() -> None:
    assert experiment.num_nodes({"a": {}, "b": {"num-nodes": 0}}) == 0
    assert experiment.num_nodes({"a": {"num-nodes": 4}, "b": {}, "c": {"num-nodes": 4}}) == 4
    with pytest.raises(InputError, match="one number of nodes, but 'a' for 4, 'b' for 6"):
        experiment.num_nodes({"a": {"num-nodes": 4}, "b": {"num-nodes": 6}})


def compare(*words: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_compare_takes_the_scale_and_the_number_of_nodes(path: Path, tmp_path: Path) -> None:
    result = compare(path, "--scale", "small", "--only", "silo", "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    config = (tmp_path / "out" / "runs" / "silo-seed0" / "config.toml").read_text()
    assert "local-steps = 4" in config
    rows = (tmp_path / "out" / "runs" / "silo-seed0" / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3  # two rounds of three nodes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--num-nodes", 4], "num-nodes = 3 and --num-nodes 4 are different"),
        (["--scale", "large"], "unknown scale 'large' (allowed: small)"),
        (["--strategies", "silo", "--scale", "small"], "--scale 'small' is one of an experiment"),
    ],
)
def test_mistakes_on_the_command_line(words: list, sentence: str, path: Path, tmp_path: Path) -> None:
    experiments = [] if "--strategies" in words else [path]
    result = compare(*experiments, *words, "--output-dir", tmp_path / "out")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_config_has_scales_too(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text("seed = 1\nrho = 2.0\n[scale.small]\nrho = 0.5\nlocal-steps = 3\n")
    other.write_text("alpha = 0.25\n")
    texts = ["local-steps=7", str(one), str(other)]
    assert run_config.parse(texts) == {"seed": 1, "rho": 2.0, "alpha": 0.25, "local-steps": 7}
    assert run_config.parse(texts, "small") == {"seed": 1, "rho": 0.5, "alpha": 0.25, "local-steps": 7}
    with pytest.raises(InputError, match=r"--scale: unknown scale 'tiny' \(allowed: small\)"):
        run_config.parse(texts, "tiny")
    with pytest.raises(InputError, match=r"--scale 'small': no file of -c has scales \(tables \[scale.NAME\]\)"):
        run_config.parse([str(other)], "small")


def test_presets_are_listed_with_their_scales() -> None:
    listed = CliRunner().invoke(app, ["presets"]).output
    assert "flower-kd compare preset:report-mnist [--scale small]\n" in listed
    assert "flower-kd compare preset:digits\n" in listed
