import tomllib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from flower_kd import load_card, schedule, server_app, sim
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


def test_the_slides_on_both_data_sets_differ_in_their_data_only() -> None:
    cifar, sun = (experiment.read(presets.get(name).path, {}) for name in ("slides-cifar10", "slides-sun397"))
    assert list(cifar) == list(sun)
    for label in cifar:
        differ = {key for key in cifar[label] if cifar[label][key] != sun[label][key]}
        assert differ == {"dataset", "gamma", "local-steps", "schedule"}
    measures = {"ce", "kl", "js", "sed", "td"}
    assert {f"{kind}-{measure}" for kind in ("private", "reference") for measure in measures} < set(cifar)
    for runs, gamma in ((cifar, 15.0), (sun, 10.0)):
        config = RunConfig.parse(runs["private-td"])
        assert config.gamma == gamma
        # A quarter of a cosine of 200 epochs, of which each head has at most 50.
        steps = config.local_steps * config.num_server_rounds // 2
        assert schedule.factors(config.schedule, steps)[-1] == pytest.approx((1 + 2**-0.5) / 2, abs=1e-4)


def test_the_slides_preset_runs_on_a_folder_of_sun397(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["/a/abbey", "/b/beach", "/c/casino/indoor"]
    for number in range(60):
        file = tmp_path / "SUN397" / names[number % 3].removeprefix("/") / f"sun_{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 255, (30, 20 + number % 7, 3)).astype(np.uint8)).save(file)
    (tmp_path / "SUN397" / "ClassName.txt").write_text("\n".join(names))
    values = {
        "dataset": str(tmp_path / "SUN397"), "weights-file": "", "image-size": 16, "model": "resnet2",
        "reference-size": 6, "num-server-rounds": 4, "local-steps": 2,
    }  # fmt: skip
    runs = experiment.read(presets.get("slides-sun397").path, values)
    for label in ("alone", "private-td-train", "reference-sed", "private-msed"):
        summary = sim.run(runs[label], 3, tmp_path / label)
        assert None not in summary.accuracy["per_node"]
        assert summary.bytes["messages_per_edge"] == (label != "alone")
    assert load_card(tmp_path / "private-msed", node=0).labels == ("abbey", "beach", "casino/indoor")


def test_without_imagenet_weights_the_slides_do_not_begin(tmp_path: Path) -> None:
    values = {"dataset": "digits", "normalization": "auto", "image-size": 0, "reference-size": 100}
    runs = experiment.read(presets.get("slides-cifar10").path, values)
    with pytest.raises(InputError, match=r"weights-file 'resnet18-f37072fd.pth' is not a file"):
        sim.run(runs["alone"], 3, tmp_path / "run")
