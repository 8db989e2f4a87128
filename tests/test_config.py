import inspect
import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from flower_kd import strategies
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.strategies.registry import settings_of

ROOT = Path(__file__).parents[1]


def test_pyproject_holds_the_same_defaults() -> None:
    """`flwr run .` and the in-process engine start from one config, and Flower refuses unlisted keys."""
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert RunConfig().to_dict() == app


@pytest.mark.parametrize("name", strategies.names())
def test_strategies_have_the_defaults_of_the_run_config(name: str) -> None:
    """`DDist(graph)` in a user's own app is what `strategy = "d-dist"` runs."""
    run_config = asdict(RunConfig())
    cls = strategies.STRATEGIES.get(name)
    defaults: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            defaults |= {key: spec.default for key, spec in inspect.signature(base.__init__).parameters.items()}
    defaults = {setting: defaults[setting] for setting in settings_of(cls)}
    assert {"seed", "local_steps", "evaluate_every"} <= set(defaults)
    assert defaults == {setting: run_config[setting] for setting in defaults}


@pytest.mark.parametrize("preset", sorted((ROOT / "strategies").glob("*.toml")), ids=lambda path: path.stem)
def test_presets_are_valid(preset: Path) -> None:
    config = RunConfig.parse(tomllib.loads(preset.read_text()))
    assert config.strategy == preset.stem
    config.build_strategy(config.graph(8))


def test_every_run_of_the_experiments_is_valid() -> None:
    experiments = list((ROOT / "sim").glob("*.toml"))
    assert experiments
    for path in experiments:
        experiment = tomllib.loads(path.read_text())
        for run in experiment["runs"].values():
            RunConfig.parse(experiment["common"] | run)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("strategy", "fedsgd", r"unknown strategy 'fedsgd', did you mean 'd-sgd'\? \(allowed: d-dist|unknown strategy"),
        ("dissimilarity", "jsd", "unknown dissimilarity 'jsd', did you mean 'js'"),
        ("partition", "niid", "unknown partition 'niid', did you mean 'iid'"),
        ("pooling", "mode", r"unknown pooling 'mode'.*allowed: mean, mean-logits, pairwise, median"),
        ("clip", -0.1, "clip = -0.1 must be at least 0"),
        ("wire", "int8", "unknown wire 'int8'"),
        ("initial-weights", "equal", r"unknown initial-weights 'equal' \(allowed: auto, common, separate\)"),
        ("consensus", "gossip", "allowed: gradient, tracking"),
        ("temprature", 2.0, "unknown key 'temprature', did you mean 'temperature'"),
        ("temperature", 0.0, "temperature = 0.0 must be above 0"),
        ("temperature", float("nan"), "temperature = nan must be finite and above 0"),
        ("temperature", float("inf"), "temperature = inf must be finite and above 0"),
        ("learning-rate", 10**400, "learning-rate = inf must be finite and above 0"),
        ("seed", -1, "seed = -1 must be at least 0"),
        ("seed", 2**63, "seed = 9223372036854775808 must be at least 0 and at most 9.22337e\\+18"),
        ("evaluate-every", 0, "evaluate-every = 0 must be at least 1"),
        ("exchange-every", -5, "exchange-every = -5 must be at least 0"),
        ("gamma", -1.0, "gamma = -1.0 must be at least 0"),
        ("alpha", 1.2, "alpha = 1.2 must be at least 0 and at most 1"),
        ("local-steps", 2.5, "local-steps = 2.5 must be a whole number"),
        ("local-steps", "ten", "local-steps = 'ten' must be a whole number"),
        ("clamp", 1, "clamp = 1 must be true or false"),
        ("seed", True, "seed = True must be a whole number"),
        ("model", 5, "model = 5 must be a string"),
        ("model", "lenet6", "unknown model 'lenet6', did you mean 'lenet5'"),
        ("model", "lenet5*x,mlp*2", "'x' after"),
        ("topology", "rign", "unknown topology 'rign', did you mean 'ring'"),
        ("reference-size", 0, "strategy 'd-dist' needs a reference set"),
        ("exchange-rows", 9999, "exchange-rows = 9999 is above reference-size"),
        ("exchange-every", 7, "exchange-every = 7 does not divide local-steps = 25"),
        ("min-degree", 5, "min-degree = 5 is above max-degree = 3"),
    ],
)
def test_each_mistake_is_one_sentence(key: str, value: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        RunConfig.parse({key: value})
    assert "\n" not in str(refusal.value)


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(InputError) as refusal:
        RunConfig.parse({"strategy": "x", "alpha": -1, "no-such-key": 1, "batch-size": "big"})
    assert str(refusal.value).startswith("4 problems: ")
    for word in ("'x'", "alpha = -1", "'no-such-key'", "batch-size = 'big'"):
        assert word in str(refusal.value)


@pytest.mark.parametrize("strategy", ["d-sgd", "fedavg"])
def test_averaging_weights_needs_one_model(strategy: str) -> None:
    with pytest.raises(InputError, match=f"strategy '{strategy}' averages weights, so all nodes need one model"):
        RunConfig.parse({"strategy": strategy, "model": "mlp,lenet5"})


def test_whole_numbers_may_stand_for_numbers() -> None:
    assert RunConfig.parse({"temperature": 10}).temperature == 10.0


def test_every_key_has_a_check_or_is_a_text_or_a_boolean() -> None:
    for spec in fields(RunConfig):
        assert "check" in spec.metadata or type(spec.default) in (str, bool), spec.name
