import tomllib
from pathlib import Path

import pytest

from flower_kd import server_app
from flower_kd.cli import presets
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.study import experiment

ROOT = Path(__file__).parents[2]
SIM = ROOT / "sim"


def test_every_experiment_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    files = {f"sim/{path.name}": f"flower_kd/presets/{path.name}" for path in SIM.glob("*.toml")}
    assert {file: place for file, place in included.items() if file.startswith("sim/")} == files


def test_every_preset_says_what_it_is_and_can_be_used() -> None:
    found = presets.presets()
    assert {preset.name for preset in found if preset.is_experiment} == {path.stem for path in SIM.glob("*.toml")}
    for preset in found:
        assert preset.description.endswith(".")
        assert preset.usage.endswith(f" preset:{preset.name}")
        text = f"preset:{preset.name}"
        path = presets.path_of(text, experiment=preset.is_experiment)
        assert path.is_file()
        if preset.is_experiment:
            for scale in ("", *preset.scales):
                runs = experiment.read(path, {}, scale=scale)
                for config in runs.values():
                    server_app.plan(RunConfig.parse(config), experiment.num_nodes(runs) or 16)


def test_paths_are_left_as_they_are() -> None:
    assert presets.path_of("some/file.toml", experiment=True) == Path("some/file.toml")


def test_a_preset_of_the_other_kind() -> None:
    with pytest.raises(InputError, match="is for another command: flower-kd run -c preset:d-dist"):
        presets.path_of("preset:d-dist", experiment=True)
