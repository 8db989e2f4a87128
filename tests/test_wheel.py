"""The wheel works by itself, in a folder without a clone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from installing import install

REPOSITORY = Path(__file__).parents[1]
SHORT = "num-server-rounds=1 local-steps=1 exchange-every=1 evaluate-every=1 samples-per-node=10 reference-size=60"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed wheel; its dependencies are those of this environment."""
    return install(REPOSITORY, tmp_path_factory.mktemp("wheel"))


def flower_kd(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the installed command in another folder."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, str(installed / "bin" / "flower-kd"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_it_has_every_preset(installed: Path, tmp_path: Path) -> None:
    listed = flower_kd(installed, tmp_path, "presets").stdout
    sources = [*(REPOSITORY / "strategies").glob("*.toml"), *(REPOSITORY / "sim").glob("*.toml")]
    assert len(sources) >= 7
    for source in sources:
        path = installed / "flower_kd" / "presets" / source.name
        assert str(path) in listed
        assert path.read_bytes() == source.read_bytes()
    assert flower_kd(installed, tmp_path, "presets", "d-dist").stdout.strip() in listed


def test_it_has_every_file_of_the_package(installed: Path) -> None:
    package = REPOSITORY / "flower_kd"
    sources = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    missing = [path for path in sources if not (installed / "flower_kd" / path.relative_to(package)).is_file()]
    assert len(sources) > 100
    assert missing == []


def test_it_runs_a_preset(installed: Path, tmp_path: Path) -> None:
    ran = flower_kd(
        installed, tmp_path, "run", "-c", "preset:d-dist", "-c", SHORT, "--num-nodes", "3", "--output-dir", "run"
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.slow
def test_it_runs_an_experiment_and_makes_its_page(installed: Path, tmp_path: Path) -> None:
    compared = flower_kd(
        installed, tmp_path, "compare", "preset:digits", "--only", "silo", "-c", SHORT, "--output-dir", "compared"
    )
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "compared" / "comparison.json").is_file()
    assert flower_kd(installed, tmp_path, "report", "compared").returncode == 0
