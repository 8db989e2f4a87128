import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, get_origin, get_type_hints

import pytest

from flower_kd import strategies
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.parts.signatures import settings_of

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
    defaults = {name: setting.default for name, setting in settings_of(cls).items() if name in run_config}
    assert {"seed", "local_steps", "evaluate_every"} <= set(defaults)
    assert defaults == {setting: run_config[setting] for setting in defaults}


@pytest.mark.parametrize("preset", sorted((ROOT / "strategies").glob("*.toml")), ids=lambda path: path.stem)
def test_presets_are_valid(preset: Path) -> None:
    config = RunConfig.parse(tomllib.loads(preset.read_text()))
    assert f"{preset.stem}-".startswith(f"{config.strategy}-")  # the strategy itself, or a variant of it
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
        ("wire", "int8", "unknown wire format 'int8'"),
        ("compression", "int8", "unknown compression 'int8', did you mean 'uint8'"),
        ("compression", "top-k(share=0)", "compression 'top-k': share = 0 must be above 0 and at most 1"),
        ("initial-weights", "equal", r"unknown initial-weights 'equal' \(allowed: auto, common, separate\)"),
        ("consensus", "gossip", "allowed: gradient, tracking"),
        (
            "strategy",
            "d-dist(seed=3)",
            r"'d-dist\(seed=3\)' cannot set seed, which belongs to the whole run: write seed = 3",
        ),
        ("strategy", "neighbor-kd(wire=uint8)", "cannot set wire, .* write wire = 'uint8' as a key of its own"),
        ("strategy", "d-dist(gamma=3)", "cannot set gamma, .* write gamma = 3 as a key"),
        ("strategy", "d-dist(alpha=1)", "unknown argument of strategy 'd-dist' 'alpha'"),
        ("strategy", "neighbor-kd(alpha=2)", "strategy 'neighbor-kd': alpha = 2 must be at least 0 and at most 1"),
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
        ("validation-share", 0.6, "validation-share = 0.6 must be at least 0 and at most 0.5"),
        ("local-steps", 2.5, "local-steps = 2.5 must be a whole number"),
        ("local-steps", "ten", "local-steps = 'ten' must be a whole number"),
        ("resume", 1, "resume = 1 must be true or false"),
        ("seed", True, "seed = True must be a whole number"),
        ("model", 5, "model = 5 must be a string"),
        ("model", "lenet6", "unknown model 'lenet6', did you mean 'lenet5'"),
        ("model", "lenet5*x,mlp*2", "'x' after"),
        ("topology", "rign", "unknown topology 'rign', did you mean 'ring'"),
        ("reference-size", 0, "strategy 'd-dist' needs a reference set"),
        ("exchange-rows", 9999, "exchange-rows = 9999 is above reference-size"),
        ("exchange-every", 7, "exchange-every = 7 does not divide local-steps = 25"),
        ("strategy", "multi-head(local_rounds=20)", "local_rounds = 20 leaves no round for the second head"),
        ("strategy", "multi-head(teachers=public)", r"^strategy 'multi-head': unknown teachers 'public' \(allowed"),
    ],
)
def test_each_mistake_is_one_sentence(key: str, value: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        RunConfig.parse({key: value})
    assert "\n" not in str(refusal.value)


def test_phases_of_a_run() -> None:
    """What must fit a whole run must fit each phase; private teachers need no reference set."""
    with pytest.raises(InputError, match="a run of 1 round has no second phase"):
        RunConfig.parse({"strategy": "multi-head", "num-server-rounds": 1})
    run_config = {"num-server-rounds": 4, "local-steps": 5, "schedule": "cosine(warmup=8)"}
    RunConfig.parse({"strategy": "multi-head"} | run_config)
    with pytest.raises(InputError, match="a warm-up of 8 steps needs a run of more than 8, not 5"):
        RunConfig.parse({"strategy": "multi-head(local_rounds=1)"} | run_config)
    RunConfig.parse({"strategy": "multi-head(teachers=private)", "reference-size": 0})
    with pytest.raises(InputError, match="needs a reference set"):
        RunConfig.parse({"strategy": "multi-head", "reference-size": 0})


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(InputError) as refusal:
        RunConfig.parse({"strategy": "x(", "alpha": -1, "no-such-key": 1, "batch-size": "big", "degree": 2})
    assert str(refusal.value).startswith("5 problems: ")
    for word in ("'x('", "alpha = -1", "'no-such-key'", "batch-size = 'big'", "degree = 2"):
        assert word in str(refusal.value)
    with pytest.raises(InputError) as refusal:
        RunConfig.parse({"strategy": "x", "pooling": "y", "partition": "iid(gamma=1)", "model": "z", "device": "tpu"})
    assert str(refusal.value).startswith("5 problems: ")


@pytest.mark.parametrize("strategy", ["d-sgd", "fedavg"])
def test_averaging_weights_needs_one_model(strategy: str) -> None:
    with pytest.raises(InputError, match=f"strategy '{strategy}' averages weights, so all nodes need one model"):
        RunConfig.parse({"strategy": strategy, "model": "mlp,lenet5"})


def test_whole_numbers_may_stand_for_numbers() -> None:
    assert RunConfig.parse({"temperature": 10}).temperature == 10.0


def test_every_number_has_a_range() -> None:
    for key, annotation in get_type_hints(RunConfig, include_extras=True).items():
        assert annotation in (str, bool) or get_origin(annotation) in (Annotated, Literal), key


def test_keys_are_checked_without_importing_the_parts() -> None:
    script = (
        "import sys; from flower_kd.config import RunConfig; from flower_kd.errors import InputError\n"
        "try: RunConfig.parse({'temprature': 2.0})\n"
        "except InputError as error: print(error, *sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    told, *modules = done.stdout.splitlines()
    assert told.startswith("unknown key 'temprature', did you mean 'temperature'")
    assert not {"torch", "flower_kd.strategies", "flower_kd.data", "networkx", "scipy"} & set(modules)


def test_an_unknown_key_shows_the_nearest_only() -> None:
    with pytest.raises(InputError) as refusal:
        RunConfig.parse({"wire-format": "uint8"})
    assert str(refusal.value) == "unknown key 'wire-format', did you mean 'wire' or 'wire-coding' or 'wire-noise'?"
    with pytest.raises(InputError, match=r"unknown key 'xyzzy' \(`flower-kd settings` lists all keys\)"):
        RunConfig.parse({"xyzzy": 1})


@pytest.mark.parametrize(
    ("run_config", "sentence"),
    [
        (
            {"pooling_self": True},
            "it is a setting of the strategy neighbor-kd or multi-head: write strategy = "
            "'neighbor-kd(pooling_self=true)'",
        ),
        (
            {"degrees": 5.0, "augment": "affine(scale=0.1)"},
            "it is a setting of the augment affine: write augment = 'affine(scale=0.1, degrees=5.0)'",
        ),
        (
            {"share": 0.1, "compression": "top-k"},
            "it is a setting of the compression top-k: write compression = 'top-k(share=0.1)'",
        ),
        ({"labels_per_node": 2}, "it is a setting of the partition "),
    ],
)
def test_an_unknown_key_that_is_a_setting_of_a_part_says_of_which(run_config: dict, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        RunConfig.parse(run_config)
    assert str(refusal.value).startswith(f"unknown key {next(iter(run_config))!r}: {sentence}")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"patience": 3}, "patience = 3 needs samples that nodes hold out: validation-share above 0"),
        (
            {"patience": 3, "validation-share": 0.2, "strategy": "d-sgd"},
            "patience = 3: strategy 'd-sgd' averages weights, so that no node can stop",
        ),
        ({"patience": 3, "validation-share": 0.2, "strategy": "fedavg"}, "strategy 'fedavg' averages weights"),
        ({"validation-share": 0.2, "strategy": "neighbor-kd(patience=3)"}, "cannot set patience"),
        ({"patience": -1}, "patience = -1 must be at least 0"),
    ],
)
def test_patience_that_cannot_be_had(values: dict, words: str) -> None:
    with pytest.raises(InputError) as error:
        RunConfig.parse(values)
    assert words in str(error.value)
