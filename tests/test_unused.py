"""Settings without effect: which they are, and where they are reported."""

import logging
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flower_kd import sim
from flower_kd.cli.commands import app
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.unused import WARNING, Reason, check_grid, unused, warning

ROOT = Path(__file__).parents[1]
SHORT = "num-server-rounds=1 local-steps=2 samples-per-node=20 reference-size=40"


def config(**values: object) -> RunConfig:
    return RunConfig.parse({key.replace("_", "-"): value for key, value in values.items()})


@pytest.mark.parametrize(
    ("values", "without", "with_effect"),
    [
        ({"strategy": "d-dist"}, {"alpha", "pooling"}, {"consensus", "rho", "exchange-rows"}),
        ({"strategy": "neighbor-kd"}, {"consensus", "clip"}, {"alpha", "temperature", "pooling"}),
        ({"strategy": "neighbor-kd(alpha=0.3)"}, {"alpha", "clip"}, {"temperature", "pooling"}),
        (
            {"strategy": "d-sgd"},
            {"temperature", "wire", "exchange-rows", "record-gradients"},
            {"exchange-every", "topology", "compression"},
        ),
        ({"strategy": "fedavg"}, {"exchange-every", "topology"}, {"local-steps", "seed", "compression"}),
        ({"strategy": "neighbor-kd"}, {"compression"}, {"wire"}),
        ({"strategy": "silo"}, {"topology", "dissimilarity", "exchange-rows", "rho"}, {"evaluate-every", "gamma"}),
        ({"strategy": "d-sgd"}, {"reference-augment"}, {"augment", "schedule"}),
        ({"strategy": "d-dist"}, set(), {"reference-augment", "augment", "record-gradients"}),
        (
            {"strategy": "multi-head"},
            {"exchange-every", "compression", "consensus"},
            {"wire", "exchange-rows", "reference-augment", "pooling", "alpha", "logit-adjustment", "evaluate-every"},
        ),
        (
            {"strategy": "multi-head(teachers=private)"},
            {"exchange-every", "wire", "wire-coding", "exchange-rows", "reference-batch", "reference-augment"},
            {"pooling", "alpha", "temperature", "dissimilarity", "augment", "kd-reduction", "schedule"},
        ),
        ({"strategy": "d-dist"}, set(), {"participation", "message-loss"}),
        ({"strategy": "fedavg"}, {"message-loss"}, {"participation"}),
        ({"strategy": "silo"}, {"message-loss"}, {"participation"}),
        ({"partition": "iid"}, {"gamma", "dirichlet-alpha"}, {"partition", "samples-per-node"}),
        ({"partition": "skew(labels_per_node=2)"}, {"dirichlet-alpha"}, {"gamma"}),
        ({"partition": "skew(gamma=3)"}, {"dirichlet-alpha", "gamma"}, {"partition"}),
        ({"partition": "dirichlet"}, {"gamma"}, {"dirichlet-alpha"}),
    ],
)
def test_what_has_no_effect(values: dict, without: set[str], with_effect: set[str]) -> None:
    found = unused(config(**values))
    assert without <= set(found)
    assert not with_effect & set(found)
    assert not {"strategy", "seed", "learning-rate", "model", "dataset"} & set(found)


def test_the_reason_names_the_part_and_what_it_uses() -> None:
    found = unused(config(strategy="d-dist", partition="iid"))
    assert found["alpha"].words == "strategy 'd-dist' does not use it"
    assert found["alpha"].instead.startswith("clip, consensus, dissimilarity, evaluate-every")
    assert found["gamma"] == Reason("partition 'iid' does not use it")


def test_a_graph_file_names_the_nodes(tmp_path: Path) -> None:
    path = tmp_path / "rooms.txt"
    path.write_text("attic cellar\n")
    assert "topology" not in unused(config(strategy="d-sgd", topology=str(path)))
    assert "topology" not in unused(config(strategy="silo", topology=str(path)))


def test_what_is_changed_and_used_by_no_run_is_reported_in_one_line() -> None:
    assert warning([config(), config(strategy="silo")]) == ""
    line = warning([config(strategy="d-dist", alpha=0.9, partition="iid", gamma=3.0)])
    assert line.startswith(f"{WARNING}gamma = 3.0 (partition 'iid' does not use it")
    assert "alpha = 0.9 (strategy 'd-dist' does not use it" in line
    assert "\n" not in line
    shared = [config(strategy=name, alpha=0.9, clip=2.0) for name in ("silo", "neighbor-kd")]
    assert "alpha" not in warning(shared)  # the second uses it
    assert "clip = 2.0 (strategy 'silo' does not use it; strategy 'neighbor-kd' does not use it" in warning(shared)
    assert "alpha" in warning([config(strategy="silo", alpha=0.9), config(strategy="neighbor-kd")])


@pytest.mark.parametrize(
    ("grid", "common", "refused"),
    [
        ({"alpha": [0.1, 0.9]}, {"strategy": "d-dist"}, "alpha: it has no effect in 2 of 2"),
        ({"alpha": [0.1]}, {"strategy": "d-dist"}, "alpha: it has no effect in 1 of 1"),
        ({"alpha": [0.1, 0.9], "strategy": ["d-dist", "neighbor-kd"]}, {}, "alpha: it has no effect in 2 of 4"),
        ({"alpha": [0.1], "strategy": ["d-dist", "neighbor-kd"]}, {}, ""),
        ({"gamma": [0.3, 0.5], "partition": ["skew", "skew(gamma=2)"]}, {}, "gamma: .* 2 of 4 .*parentheses"),
        ({"gamma": [1.0, 2.0]}, {"partition": "iid"}, "gamma: .* partition 'iid' does not use it$"),
        ({"gamma": [1.0]}, {"partition": "dirichlet"}, "gamma: .* does not use it, but uses dirichlet-alpha$"),
        ({"topology": ["ring", "complete"]}, {"strategy": "silo"}, "topology"),
        ({"temperature": [1.0, 2.0], "strategy": ["d-dist", "neighbor-kd"]}, {}, ""),
    ],
)
def test_a_grid_of_keys_without_effect_is_refused(grid: dict, common: dict, refused: str) -> None:
    from flower_kd.study.grid import combinations

    configs = {label: RunConfig.parse({**common, **choice}) for label, choice in combinations(grid).items()}
    if not refused:
        check_grid(grid, configs)
        return
    with pytest.raises(InputError, match=f"--grid {refused}") as refusal:
        check_grid(grid, configs)
    assert "\n" not in str(refusal.value)


def test_a_sweep_without_effect_ends_at_once(tmp_path: Path) -> None:
    words = ["sweep", "--grid", "alpha=0.1,0.9", "-c", f"{SHORT} strategy='d-dist'", "--output-dir", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--grid alpha: it has no effect in 2 of 2 combinations, as in alpha=0.1: strategy 'd-dist'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("flwr").propagate = True
    short = {"num-server-rounds": 1, "local-steps": 2, "samples-per-node": 20, "reference-size": 40}
    with caplog.at_level(logging.WARNING):
        sim.run(short | {"strategy": "silo", "alpha": 0.9}, 2, tmp_path / "run")
    told = [record.getMessage() for record in caplog.records if WARNING in record.getMessage()]
    assert len(told) == 1
    assert "alpha = 0.9" in told[0]


def test_a_comparison_warns_once_of_what_no_run_uses(tmp_path: Path) -> None:
    words = ["compare", "--strategies", "silo,d-sgd", "-c", f"{SHORT} alpha=0.9 exchange-every=1", "--num-nodes", 2]
    result = CliRunner().invoke(app, [*map(str, words), "--output-dir", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.stderr.count(WARNING) == result.stderr.count("alpha = 0.9") == 1
    assert "exchange-every" not in result.stderr
    assert WARNING not in result.stdout


@pytest.mark.parametrize("preset", sorted((ROOT / "strategies").glob("*.toml")), ids=lambda path: path.stem)
def test_presets_hold_nothing_without_effect(preset: Path) -> None:
    values = tomllib.loads(preset.read_text())
    assert not set(values) & set(unused(RunConfig.parse(values)))


@pytest.mark.parametrize("path", sorted((ROOT / "sim").glob("*.toml")), ids=lambda path: path.stem)
def test_experiments_hold_nothing_without_effect(path: Path) -> None:
    experiment = tomllib.loads(path.read_text())
    configs = [RunConfig.parse(experiment["common"] | run) for run in experiment["runs"].values()]
    assert warning(configs) == ""
    for run, parsed in zip(experiment["runs"].values(), configs, strict=True):
        assert not set(run) & set(unused(parsed))
