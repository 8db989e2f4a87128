"""Old spellings of settings that moved into parts."""

import tomllib
from pathlib import Path

import pytest

from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.parts import moved
from flower_kd.parts.text import parse


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"topology": "regular", "degree": 6},
            "degree = 6 is now a setting of the topology: write topology = 'regular(degree=6)'",
        ),
        (
            {"topology": "small-world(rewire_probability=0.2)", "degree": 6},
            "degree = 6 is now a setting of the topology: write topology = "
            "'small-world(rewire_probability=0.2, degree=6)'",
        ),
        ({"degree": 6}, "degree = 6 is now a setting of the topology: write topology = 'regular(degree=6)'"),
        (
            {"topology": "random-directed", "min-degree": 2, "max-degree": 4},
            "min-degree = 2 and max-degree = 4 are now settings of the topology: write topology = "
            "'random-directed(min_degree=2, max_degree=4)'",
        ),
        (
            {"topology": "small-world", "degree": 6, "rewire-probability": 0.5},
            "degree = 6 and rewire-probability = 0.5 are now settings of the topology: write topology = "
            "'small-world(degree=6, rewire_probability=0.5)'",
        ),
        (
            {"topology": "erdos-renyi", "edge-probability": 0.0},
            "edge-probability = 0.0 is now a setting of the topology: write topology = 'erdos-renyi'",
        ),
        (
            {"partition": "skew", "labels-per-node": 3},
            "labels-per-node = 3 is now a setting of the partition: write partition = 'skew(labels_per_node=3)'",
        ),
        (
            {"partition": "iid", "labels-per-node": 3},
            "labels-per-node = 3 is now a setting of the partition: write partition = "
            "'pathological(labels_per_node=3)'",
        ),
        (
            {"eta": 0.3, "clamp": False},
            "eta = 0.3 and clamp = false are now settings of the consensus: write consensus = "
            "'gradient(eta=0.3, clamp=false)'",
        ),
        (
            {"strategy": "neighbor-kd", "pooling-weights": "mixing", "pooling-self": True},
            "pooling-weights = 'mixing' and pooling-self = true are now settings of the strategy: write strategy = "
            "'neighbor-kd(pooling_weights=mixing, pooling_self=true)'",
        ),
        (
            {"strategy": "multi-head(teachers=private)", "pooling-weights": "mixing"},
            "pooling-weights = 'mixing' is now a setting of the strategy: write strategy = "
            "'multi-head(teachers=private, pooling_weights=mixing)'",
        ),
    ],
)
def test_an_old_spelling_shows_the_new_one(config: dict, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        RunConfig.parse(config)
    assert str(refusal.value) == sentence
    # What it says to write is a config that can be run, and the one that reading old results makes.
    kind, text = tomllib.loads(sentence.split(": write ")[1]).popitem()
    new = {key: value for key, value in config.items() if key not in moved.HOMES} | {kind: text}
    RunConfig.parse(new)
    if config.get(kind) == parse(text).name:
        assert parse(moved.applied(config)[kind]) == parse(text)
    assert RunConfig.parse(moved.applied(config))


def test_all_kinds_are_reported_together() -> None:
    with pytest.raises(InputError) as refusal:
        RunConfig.parse({"degree": 6, "eta": 0.3, "temprature": 1})
    assert str(refusal.value).startswith("3 problems: ")


def test_the_homes_of_a_moved_key_are_the_parts_that_take_it() -> None:
    from flower_kd.catalog import REGISTRIES

    for key, home in moved.HOMES.items():
        assert key not in RunConfig().to_dict()
        registry = REGISTRIES[home.kind]
        taking = {part for part in registry.own_names() if key.replace("-", "_") in registry.settings(part)}
        assert set(home.parts) == taking, key


def test_results_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    from flower_kd.runs import results

    (tmp_path / "config.toml").write_text('topology = "regular"\ndegree = 6\nclamp = true\nlabels-per-node = 0\n')
    assert results.read_config(tmp_path).topology == "regular(degree=6)"
    assert results.read_config(tmp_path).consensus == "gradient"
