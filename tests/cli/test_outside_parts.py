"""Parts of a module in the current folder, on the command line: in process, in workers, in parallel runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from outside_parts import MODULE, TEXTS, installed
from typer.testing import CliRunner

from flower_kd import sim
from flower_kd.cli import run_config
from flower_kd.cli.commands import app
from flower_kd.errors import InputError

ROOT = Path(__file__).parents[2]
SHORT = "num-server-rounds=1 local-steps=2 samples-per-node=20 reference-size=40"


def flower_kd(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder: as a console script it has no current folder on its path."""
    script = "import sys; sys.argv[0] = 'flower-kd'; from flower_kd.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *map(str, words)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine_of_cwd.py").write_text(MODULE)
    return tmp_path


def test_every_kind_at_once_with_the_same_figures_in_workers(folder: Path, monkeypatch) -> None:
    config = {kind: f"mine_of_cwd:{good}" for kind, (good, _, _) in TEXTS.items() if kind != "consensus"}
    text = " ".join(f"{key}='{value}'" for key, value in config.items())
    options = ("-c", f"{SHORT} {text}", "--num-nodes", 5, "--workers", 2, "--output-dir", "out")
    done = flower_kd(folder, "run", *options)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["strategy"] == "mine_of_cwd:Strategy(strength=0.5)"
    monkeypatch.syspath_prepend(folder)
    here = sim.run(run_config.parse([SHORT]) | config, 5, folder / "here")
    assert summary["accuracy"]["per_node"] == here.accuracy["per_node"]
    assert (summary["bytes"], summary["identity"]) == (here.bytes, here.identity)


def test_a_sweep_over_parts_in_parallel_runs(folder: Path) -> None:
    grids = [
        "--grid",
        "topology=regular(degree=2),mine_of_cwd:chords(every=2)",
        "--grid",
        "consensus=gradient,mine_of_cwd:lazy(speed=0.2)",
    ]
    done = flower_kd(folder, "sweep", *grids, "-c", SHORT, "--num-nodes", 5, "--jobs", 2, "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "out" / "sweep.csv")
    assert table["accuracy"].notna().all()
    assert table["topology"].tolist()[::2] == ["regular(degree=2)", "mine_of_cwd:chords(every=2)"]
    assert table["folder"][0] == "runs/topology=regular(degree=2),consensus=gradient-seed0"
    assert table["folder"].nunique() == 4
    report = CliRunner().invoke(app, ["report", str(folder / "out")])
    assert report.exit_code == 0, report.stderr


def test_a_wrong_setting_ends_at_once_in_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    done = CliRunner().invoke(app, ["run", "-c", "pooling='mine_of_cwd:first(vertex=1)'", "--output-dir", "out"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "unknown argument of pooling 'mine_of_cwd:first' 'vertex'" in done.stderr
    assert not (folder / "out").exists()


def test_a_comparison_of_strategies_with_settings(tmp_path: Path) -> None:
    words = ["--strategies", "silo, neighbor-kd(alpha=0.3, pooling_self=true)", "-c", SHORT, "--num-nodes", "2"]
    done = CliRunner().invoke(app, ["compare", *words, "--output-dir", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["strategy"] for run in comparison] == ["silo", "neighbor-kd(alpha=0.3, pooling_self=true)"]


@pytest.mark.parametrize(
    "text",
    [
        "topology='regular(degree=4)'",
        'topology="regular(degree=4)"',
        "strategy='neighbor-kd(pooling_weights=mixing, pooling_self=true)'",
        "partition=\"my.parts:Split(by='two words', over=[1, 2])\"",
        "partition='my.parts:Split(by=\"two words\")' model='resnet8*2,mlp*6'",
    ],
)
def test_flower_s_parser_carries_texts_of_parts(text: str) -> None:
    from flower_kd.parts.text import parse

    for key, value in run_config.parse([text, "seed=1"]).items():
        assert key in ("seed", "model") or parse(value).arguments


@pytest.mark.parametrize("value", ["regular(degree=4)", "ring", "my.parts:Graph(every=2)"])
def test_a_string_without_quotes_is_named(value: str) -> None:
    with pytest.raises(InputError) as refusal:
        run_config.parse([f"seed=1 topology={value}"])
    sentence = f"-c topology={value} cannot be read: a string needs quotes, such as topology='{value}'"
    assert str(refusal.value) == sentence


# -- flower-kd parts ---------------------------------------------------------------------------------------------------


def listed(*words: str) -> str:
    done = CliRunner().invoke(app, ["parts", *words], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_every_part_is_listed() -> None:
    from flower_kd.catalog import REGISTRIES

    told = listed()
    for kind, registry in REGISTRIES.items():
        assert kind in told
        assert all(f" {name} " in told for name in registry.own_names())


def test_parts_of_packages_are_listed_with_their_source(tmp_path: Path) -> None:
    points = "[flower_kd.poolings]\nmean = mine:first\nbroken = no_module_:x\nsquare = math:sqrt\n"
    with installed(tmp_path, "poolings-of-mine", points):
        told = listed("pooling")
        assert "trimmed-mean" in told
        assert "share=0.2 (number, above 0 and" in told
        assert "square │ poolings-of-mine 1.2" in told
        assert "broken │ poolings-of-mine 1.2" in told
        assert "ModuleNotFoundError" in told
        assert "│ mean │ poolings-of-mine 1.2 │ │ hidden by" in told
        assert "random-directed" not in told


def test_settings_that_are_keys_have_their_values() -> None:
    told = listed("partition")
    assert "gamma (the key's value)" in told
    assert "gamma=" not in told


def test_an_unknown_kind() -> None:
    done = CliRunner().invoke(app, ["parts", "topologies"])
    assert done.exit_code == 2
    assert "unknown kind of part 'topologies', did you mean 'topology'?" in done.stderr
