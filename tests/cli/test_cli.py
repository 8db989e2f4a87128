import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from flower_kd.cli.commands import app
from flower_kd.config import RunConfig
from flower_kd.data.pixel_cache import PixelCache
from flower_kd.runs import results
from flower_kd.sim import engine

SHORT = "model='mlp' strategy='silo' num-server-rounds=2 local-steps=2 samples-per-node=20 reference-size=40"


def flower_kd(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    result = flower_kd("run", "-c", SHORT, "--num-nodes", 2, "--output-dir", folder)
    assert result.exit_code == 0, result.output
    assert "silo on digits, ring of 2" in result.output
    assert f"flower-kd report {folder}" in result.output
    assert "[ROUND" not in result.output
    assert result.stderr == ""
    return folder


def test_help_and_version_need_no_torch() -> None:
    script = "import sys; from flower_kd.cli import commands; sys.exit('torch' in sys.modules or 'flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert "compare" in flower_kd("--help").output
    assert flower_kd("--version").output.startswith("flower-kd ")


def test_settings_lists_the_keys_and_names_those_that_do_not_exist() -> None:
    one = " ".join(flower_kd("settings", "alpha").output.split())
    assert "alpha │ 0.5 │ number, at least 0 and at most 1 │ Weight of the label term" in one
    assert "temperature" not in one
    everything = flower_kd("settings").output
    assert all(f"│ {key} " in everything for key in RunConfig().to_dict())
    assert "part: flower-kd parts augment" in everything
    wrong = flower_kd("settings", "alpha", "gama", "xyzzy")
    assert wrong.exit_code == 2
    assert "unknown key 'gama', did you mean 'gamma'?; unknown key 'xyzzy' (`flower-kd settings` lists" in wrong.stderr


def test_a_run_is_that_of_the_library(finished: Path, tmp_path: Path) -> None:
    run = results.read(finished)
    assert run.summary.num_nodes == 2
    assert run.config.samples_per_node == 20
    again = engine.run(run.config.to_dict(), 2, tmp_path / "again")
    assert again.accuracy == run.summary.accuracy


def test_config_files_nested_pairs_and_several_options(tmp_path: Path) -> None:
    (tmp_path / "preset.toml").write_text(SHORT.replace(" ", "\n"))
    from_file = flower_kd("run", "-c", tmp_path / "preset.toml", "--num-nodes", 2, "--output-dir", tmp_path / "file")
    assert from_file.exit_code == 0, from_file.output
    pairs = flower_kd("run", "-c", SHORT, "-c", "seed=3 num-nodes=2", "--output-dir", tmp_path / "pairs")
    assert pairs.exit_code == 0, pairs.output
    assert results.read(tmp_path / "pairs").summary.seed == 3


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("strategy=silo", "cannot be read: a string needs quotes, such as strategy='silo'"),
        ("seed=1 seed=2", "cannot be read: write key=value pairs, each key once and strings in quotes"),
        ("seed", "'seed' is neither key=value nor preset:NAME nor the path of a .toml file"),
        ("nowhere.toml", "'nowhere.toml' cannot be read: No such file"),
        ("gama=1.0", "unknown key 'gama', did you mean 'gamma'?"),
        ("num-nodes=3", "num-nodes = 3 and --num-nodes 2 are different"),
        ("temperature=-1.0 alpha=2.0", "2 problems: temperature = -1.0 must be above 0; alpha = 2.0"),
        ("topology='torus'", "torus"),
    ],
)
def test_mistakes_are_one_sentence(config: str, words: str, tmp_path: Path) -> None:
    result = flower_kd("run", "-c", config, "--num-nodes", 2, "--output-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith("flower-kd: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "-c", "topology='ring'", "--output-dir", "PATH"],
        ["run", "-c", "dataset='PATH'"],
        ["run", "-c", "PATH.toml"],
        ["compare", "--output-dir", "PATH"],
        ["report", "PATH"],
        ["predict", "PATH", "a.png", "--node", "0"],
        ["topology", "--picture", "PATH"],
    ],
)
@pytest.mark.parametrize("path", ["~nobody-at-all/x", "./" + "a" * 300], ids=["user", "long"])
def test_paths_that_cannot_be_are_one_sentence(words: list[str], path: str) -> None:
    result = flower_kd(*(word.replace("PATH", path) for word in words))
    assert result.exit_code == 2, result.output
    assert path.removeprefix("./") in result.stderr
    assert result.stderr.count("\n") == 1


def test_finished_runs_are_refused_shown_or_replaced(finished: Path) -> None:
    options = ("run", "-c", SHORT, "--num-nodes", 2, "--output-dir", finished)
    before = (finished / "summary.json").stat().st_mtime_ns
    assert "already contains a finished run" in flower_kd(*options).stderr
    shown = flower_kd(*options, "--resume")
    assert shown.exit_code == 0
    assert "silo on digits" in shown.output
    for other in ("seed=5", "momentum=0.5"):
        result = flower_kd(*options, "-c", other, "--resume")
        assert (result.exit_code, "contains another run, which cannot be resumed with" in result.stderr) == (2, True)
    assert flower_kd(*options[:4], 3, *options[5:], "--resume").exit_code == 2
    assert flower_kd(*options, "--resume", "--overwrite").exit_code == 2
    assert (finished / "summary.json").stat().st_mtime_ns == before
    assert flower_kd(*options, "--overwrite").exit_code == 0
    assert (finished / "summary.json").stat().st_mtime_ns > before


def test_an_interrupted_run_says_what_is_kept_and_can_be_restarted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("run", "-c", SHORT, "--num-nodes", 2, "--output-dir", tmp_path / "run")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flower_kd.study.progress.Lines.update", interrupt)
        result = flower_kd(*options)
    assert result.exit_code == 130
    assert f"interrupted; the history so far is in {tmp_path / 'run'}" in result.stderr
    assert not (tmp_path / "run" / "summary.json").exists()
    assert "already contains an unfinished run" in flower_kd(*options).stderr
    assert flower_kd(*options, "--resume").exit_code == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_full_disk_is_one_sentence_below_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == "summary.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    result = flower_kd("run", "-c", SHORT, "--num-nodes", 2, "--output-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert "silo on digits" in result.stdout
    assert f"output-dir '{tmp_path / 'run'}' cannot be written: No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    result = flower_kd("report", tmp_path)
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--no-such"], "No such option '--no-such'"),
        (["runn"], "unknown command 'runn', did you mean 'run'? (allowed: run, compare, "),
        (["run", "--no-such"], "No such option '--no-such' (see "),
        (["run", "--num-nodes", "x"], "Invalid value for '--num-nodes': 'x' is not a valid integer"),
        (["run", "more"], "Got unexpected extra argument (more)"),
        (["report"], "Missing argument 'FOLDER'"),
        (["run", "-c"], "Option '-c' requires an argument"),
    ],
)
def test_wrong_usage_is_one_sentence(words: list[str], sentence: str) -> None:
    result = flower_kd(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("flower-kd: ")
    assert sentence in result.stderr


def test_the_cache_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_KD_CACHE", str(tmp_path / "cache"))
    PixelCache(tmp_path / "cache", "data", "settings").pixels([b"file"], lambda file: np.zeros((1000, 2000), np.uint8))
    shown = flower_kd("cache").output
    assert str(tmp_path / "cache") in shown
    assert "2.0 MB" in shown
    assert "0.0 MB" in flower_kd("cache", "--clear").output
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setenv("FLOWER_KD_CACHE", "off")
    assert flower_kd("cache", "--clear").output == "switched off: FLOWER_KD_CACHE = off\n"


def test_gradients(tmp_path: Path) -> None:
    asked = ("gradients", "--dissimilarities", "kl,td", "--classes", "5", "--temperatures", "1")
    result = flower_kd(*asked, "--output-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "another class" in result.output
    assert (tmp_path / "gradients.png").exists()
    wrong = flower_kd("gradients", "--classes", "0", "--output-dir", tmp_path)
    assert wrong.exit_code == 2
    assert wrong.stderr == "flower-kd: --classes = 0 must be at least 2\n"


def test_the_help_of_a_scale_names_its_table() -> None:
    assert "`scale.NAME`" in flower_kd("compare", "--help").output
