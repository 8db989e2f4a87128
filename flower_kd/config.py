"""The run config: every key with its default and range; all errors are reported together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from flower_kd import data, dissimilarity, models, pooling, ranges, strategies, topology, wire
from flower_kd.devices import device
from flower_kd.errors import InputError
from flower_kd.registry import unknown

Check = Callable[[str, Any], str | None]


def _number(default: float, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf) -> Any:
    """Return a field for a number in [low, high], and greater than `above`."""
    largest = min(high, ranges.LARGEST) if type(default) is int else high

    def check(key: str, value: Any) -> str | None:
        return ranges.problem(key, value, low, largest if value > largest else high, above=above)

    return field(default=default, metadata={"check": check})


def _choice(default: str, allowed: Callable[[], list[str]]) -> Any:
    """Return a field for one of the allowed names."""

    def check(key: str, value: Any) -> str | None:
        return None if value in allowed() else unknown(key, value, allowed())

    return field(default=default, metadata={"check": check})


def _text(default: str, parse: Callable[[str], object]) -> Any:
    """Return a field for a string that `parse` accepts without an InputError."""

    def check(key: str, value: Any) -> str | None:
        try:
            parse(value)
        except InputError as error:
            return str(error)
        return None

    return field(default=default, metadata={"check": check})


def _graph_name(name: str) -> None:
    """Refuse names that are neither a topology nor look like a file; only the server needs the file itself."""
    if "." not in name and "/" not in name:
        topology.options_of(name)


@dataclass(frozen=True)
class RunConfig:
    """What `[tool.flwr.app.config]` and `-c` hold, with underscores for hyphens.

    README.md explains each key; `pyproject.toml` has the same defaults, which a test verifies.
    """

    strategy: str = _choice("d-dist", strategies.names)
    baseline: str = _choice("silo", lambda: ["silo", "none"])
    num_nodes: int = _number(0, 0)
    num_server_rounds: int = _number(20, 1)
    local_steps: int = _number(25, 1)
    exchange_every: int = _number(0, 0)
    evaluate_every: int = _number(1, 1)
    batch_size: int = _number(32, 1)
    learning_rate: float = _number(0.1, above=0)
    momentum: float = _number(0.0, 0, 0.999)
    weight_decay: float = _number(0.0, 0)
    seed: int = _number(0, 0)
    num_threads: int = _number(1, 1)
    timeout: float = _number(3600.0, above=0)

    dataset: str = "digits"
    image_size: int = _number(0, 0)
    partition: str = _choice("skew", data.partition_names)
    gamma: float = _number(15.0, 0)
    dirichlet_alpha: float = _number(0.5, above=0)
    labels_per_node: int = _number(0, 0)
    samples_per_node: int = _number(60, 0)

    model: str = _text("mlp", models.parse)
    weights_file: str = ""
    initial_weights: str = _choice("auto", lambda: ["auto", "common", "separate"])

    topology: str = _text("ring", _graph_name)
    degree: int = _number(4, 1)
    edge_probability: float = _number(0.0, 0, 1)
    rewire_probability: float = _number(0.1, 0, 1)
    attachment: int = _number(2, 1)
    min_degree: int = _number(1, 1)
    max_degree: int = _number(3, 1)

    reference_size: int = _number(400, 0)
    exchange_rows: int = _number(0, 0)
    reference_batch: int = _number(100, 0)

    dissimilarity: str = _choice("kl", dissimilarity.names)
    temperature: float = _number(2.0, above=0)
    kd_reduction: str = _choice("mean", lambda: ["mean", "sum"])
    alpha: float = _number(0.5, 0, 1)
    pooling: str = _choice("mean", pooling.names)
    pooling_weights: str = _choice("uniform", lambda: ["uniform", "mixing"])
    pooling_self: bool = False
    rho: float = _number(4.0, 0)
    consensus: str = _choice("gradient", strategies.CONSENSUS.names)
    eta: float = _number(0.5, above=0, high=1)
    clamp: bool = True
    clip: float = _number(0.0, 0)

    wire: str = _choice("float32", wire.names)
    device: str = _text("auto", device)
    output_dir: str = ""
    overwrite: bool = False
    resume: bool = False

    @classmethod
    def parse(cls, run_config: Mapping[str, Any]) -> RunConfig:
        """Return the config for kebab-case keys, as in Flower's context.

        Raises
        ------
        InputError
            For unknown keys, wrong types and values out of range, all in one message.
        """
        known = {spec.name.replace("_", "-"): spec for spec in fields(cls)}
        problems = [unknown("key", key, list(known)) for key in run_config if key not in known]
        values: dict[str, Any] = {}
        for key, spec in known.items():
            if key not in run_config:
                continue
            value, kind = run_config[key], type(spec.default)
            if kind is float and type(value) is int:
                value = float(value) if abs(value) < 2**1023 else math.inf
            if type(value) is not kind:
                problems.append(f"{key} = {value!r} must be {_KINDS[kind]}")
                continue
            check: Check | None = spec.metadata.get("check")
            problem = check(key, value) if check else None
            if problem:
                problems.append(problem)
            values[spec.name] = value
        if not problems:
            config = cls(**values)
            problems = config._conflicts()
            if not problems:
                return config
        raise InputError(problems[0] if len(problems) == 1 else f"{len(problems)} problems: " + "; ".join(problems))

    def _conflicts(self) -> list[str]:
        """Return the conflicts between values that are valid by themselves."""
        found = []
        cls = strategies.STRATEGIES.get(self.strategy)
        exchange = self.exchange_every or self.local_steps
        if self.local_steps % exchange:
            found.append(f"exchange-every = {exchange} does not divide local-steps = {self.local_steps}")
        if issubclass(cls, strategies.DistillationStrategy) and self.reference_size == 0:
            found.append(f"reference-size = 0: strategy {self.strategy!r} needs a reference set")
        if self.exchange_rows > self.reference_size:
            found.append(f"exchange-rows = {self.exchange_rows} is above reference-size = {self.reference_size}")
        if self.overwrite and self.resume:
            found.append("overwrite = true and resume = true cannot be used together")
        if self.min_degree > self.max_degree:
            found.append(f"min-degree = {self.min_degree} is above max-degree = {self.max_degree}")
        if getattr(cls, "same_model", False) and "," in self.model:
            found.append(
                f"strategy {self.strategy!r} averages weights, so all nodes need one model: model = {self.model!r} "
                "lists several"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the config by kebab-case keys."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}

    def data_spec(self, num_nodes: int) -> data.DataSpec:
        """Return how the data set is split over the nodes."""
        return data.DataSpec(
            num_partitions=num_nodes,
            **{spec.name: getattr(self, spec.name) for spec in fields(data.DataSpec) if spec.name != "num_partitions"},
        )

    def graph(self, num_nodes: int) -> Any:
        """Return the communication graph, built with the options that the topology takes."""
        options = {name: getattr(self, name) for name in topology.options_of(self.topology)}
        if not options.get("edge_probability", True):
            del options["edge_probability"]  # 0 stands for the topology's default
        return topology.build(self.topology, num_nodes, seed=self.seed, **options)

    def build_strategy(self, graph: Any) -> Any:
        """Return the strategy on a graph."""
        return strategies.build(self.strategy, graph, asdict(self))

    @property
    def common_weights(self) -> bool:
        """Whether nodes with the same model start from equal weights; by default if the strategy averages weights."""
        if self.initial_weights == "auto":
            return bool(getattr(strategies.STRATEGIES.get(self.strategy), "same_model", False))
        return self.initial_weights == "common"

    def model_of(self, vertex: int, num_nodes: int) -> str:
        """Return the name of the model that a vertex trains."""
        return models.assign(self.model, num_nodes)[vertex]


_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
