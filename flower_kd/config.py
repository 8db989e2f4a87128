"""The run config: every key with its default and range.

Keys, types and ranges are checked without importing any part, so that a wrong key is reported at once; the texts that
name parts are checked after that. All errors of a step are reported together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from flower_kd.errors import InputError
from flower_kd.parts import moved
from flower_kd.parts import text as part_text
from flower_kd.parts.values import checked
from flower_kd.ranges import (
    Count,
    LossProbability,
    Momentum,
    NonNegative,
    Positive,
    PositiveShare,
    Share,
    UpToHalf,
    Whole,
)

if TYPE_CHECKING:
    import networkx as nx

    from flower_kd.data import DataSpec
    from flower_kd.parts.registry import Registry
    from flower_kd.topology import GraphSequence

# Keys whose value names a part, or is written as if it did; that of a topology may also be a file, and that of a model
# a list.
PART_KEYS = (
    *("strategy", "partition", "dissimilarity", "pooling", "consensus", "wire"),
    *("compression", "schedule", "augment", "reference-augment", "wire-noise"),
)

_TYPO = 0.85  # similarity above which a key is misspelled, rather than of something else


@dataclass(frozen=True)
class RunConfig:
    """What `[tool.flwr.app.config]` and `-c` hold, with underscores for hyphens.

    `flower-kd settings` and the page of settings in the documentation are made from this; `pyproject.toml` has the same
    defaults, which a test verifies.

    Parameters
    ----------
    strategy : str
        What is exchanged, and what for. A strategy's own settings are in its parentheses.
    baseline : {"silo", "none"}
        Whether to train each node alone first, for comparison.
    num_nodes : int
        Nodes to wait for; 0 for those that are connected at the start.
    num_server_rounds : int
        Rounds.
    local_steps : int
        SGD steps per round.
    exchange_every : int
        SGD steps per exchange; must divide local-steps. 0 for once per round.
    evaluate_every : int
        Rounds per evaluation; the last round is always evaluated.
    batch_size : int
        Private samples in one SGD step.
    learning_rate : float
        Learning rate of SGD.
    momentum : float
        Momentum of SGD.
    weight_decay : float
        Weight decay of SGD.
    schedule : str
        The learning rate over the run, as a factor of learning-rate.
    augment : str
        How private inputs are changed at random in each step.
    seed : int
        Seed of all randomness.
    num_threads : int
        Threads of torch in each node; they affect the order of float sums.
    timeout : float
        Seconds to wait for the replies of one exchange.
    dataset : str
        `digits` (embedded), a name on the hub, or a folder with images and labels.
    image_size : int
        Side in pixels to which images are resized; 0 to keep their size.
    normalization : {"auto", "imagenet"}
        Means and standard deviations of pixels: the data set's own, or `imagenet` for those of torchvision's weights.
    partition : str
        How private samples are split over nodes.
    gamma : float
        A primary label is 1 + gamma times as likely as others (partition `skew`); 0 is iid.
    dirichlet_alpha : float
        Concentration of the partition `dirichlet`.
    samples_per_node : int
        Maximum number of private samples of a node; 0 for all.
    validation_share : float
        Share of its private samples that each node holds out, at least one, to keep the model that is best on them
        (lowest loss) beside the final one; 0 for none.
    patience : int
        Evaluations without a lower loss on its validation samples after which a node stops training, with the weights
        that were best on them; all nodes end the run with those. 0 for no stopping.
    model : str
        One model for all nodes, several in turns (`mlp,lenet5`) or in the order of vertices (`lenet5*4,resnet8*4`).
    weights_file : str
        A local file with initial weights; empty for random ones.
    initial_weights : {"auto", "common", "separate"}
        Whether nodes with the same model start from equal weights; `auto`: if the strategy averages weights.
    topology : str
        The communication graph, or another one in each exchange; also a file (edge list, or GraphML).
    participation : float
        Share of the nodes that take part in an exchange, drawn anew for each; the others neither train nor send.
    message_loss : float
        Probability that a message over an edge is lost, drawn anew for each message.
    pipeline : {0, 1}
        With 1, a device is sent its next message while it works on one, so that it never waits; teachers are one
        exchange older.
    reference_size : int
        Rows of the reference set.
    exchange_rows : int
        Reference rows in one exchange; 0 for all.
    reference_batch : int
        Reference rows in one SGD step; 0 for all rows of the teacher.
    reference_augment : str
        How reference inputs are changed at random in each step; their teacher stays that of the unchanged row.
    dissimilarity : str
        Between a student's distribution and its teacher's.
    temperature : float
        T of the softmax of student and teacher.
    kd_reduction : {"mean", "sum"}
        Of the distillation term over rows.
    alpha : float
        Weight of the label term in `neighbor-kd`, and for the second head of `multi-head`; that of the distillation
        term is 1 - alpha.
    pooling : str
        How the predictions of a node's neighbors become its teacher.
    rho : float
        Factor of the distillation term; T^2 keeps gradients from shrinking with T.
    logit_adjustment : float
        How far the logits that a node sends are corrected for the classes that it was trained on, its own labels and
        its teacher's: 0 for not at all, 1 as if it had seen all equally often (Menon et al., ICLR 2021).
    record_gradients : bool
        Whether nodes report how large the gradients of the label loss and of the distillation term are at their logits
        (`label-gradient`, `kd-gradient`): a row's own, without alpha and rho, as the mean norm over rows and steps.
    consensus : str
        Update rule of `d-dist`.
    clip : float
        Distance to which a neighbor's difference from a node is shortened before mixing, per reference row (`d-dist`)
        or over all weights (`d-sgd`); 0 for no clipping.
    wire : str
        Format of logits and soft labels in messages.
    compression : str
        Of the weights that nodes send (`d-sgd` and `fedavg`): they then send differences, and remember what these left
        out.
    wire_coding : {"plain", "entropy", "delta"}
        How this format becomes bytes: as it is (`labels` and `simplex` packed to fractions of a bit); entropy coded; or
        also without the rows that are as in the node's last message. It does not change any figure but bytes.
    wire_noise : str
        `gaussian(clip=..., multiplier=...)` adds noise to the logits that nodes send: rows are centered and shortened
        to a norm of `clip`; the multiplier is that of a message's sensitivity to all private data of the node.
    device : str
        `auto` (CUDA where there is one), `cpu`, or `cuda:0`.
    output_dir : str
        Where results go; empty for a new folder in `~/flower-kd-results`.
    overwrite : bool
        Whether to replace the results there.
    resume : bool
        Whether to continue an interrupted run there, or show a finished one.
    """

    strategy: str = "d-dist"
    baseline: Literal["silo", "none"] = "silo"
    num_nodes: Whole = 0
    num_server_rounds: Count = 20
    local_steps: Count = 25
    exchange_every: Whole = 0
    evaluate_every: Count = 1
    batch_size: Count = 32
    learning_rate: Positive = 0.1
    momentum: Momentum = 0.0
    weight_decay: NonNegative = 0.0
    schedule: str = "constant"
    augment: str = "none"
    seed: Whole = 0
    num_threads: Count = 1
    timeout: Positive = 3600.0

    dataset: str = "digits"
    image_size: Whole = 0
    normalization: Literal["auto", "imagenet"] = "auto"
    partition: str = "skew"
    gamma: NonNegative = 15.0
    dirichlet_alpha: Positive = 0.5
    samples_per_node: Whole = 60
    validation_share: UpToHalf = 0.0
    patience: Whole = 0

    model: str = "mlp"
    weights_file: str = ""
    initial_weights: Literal["auto", "common", "separate"] = "auto"

    topology: str = "ring"
    participation: PositiveShare = 1.0
    message_loss: LossProbability = 0.0
    pipeline: Literal[0, 1] = 0

    reference_size: Whole = 400
    exchange_rows: Whole = 0
    reference_batch: Whole = 100
    reference_augment: str = "none"

    dissimilarity: str = "kl"
    temperature: Positive = 2.0
    kd_reduction: Literal["mean", "sum"] = "mean"
    alpha: Share = 0.5
    pooling: str = "mean"
    rho: NonNegative = 4.0
    logit_adjustment: NonNegative = 0.0
    record_gradients: bool = False
    consensus: str = "gradient"
    clip: NonNegative = 0.0

    wire: str = "float32"
    compression: str = "none"
    wire_coding: Literal["plain", "entropy", "delta"] = "plain"
    wire_noise: str = "none"
    device: str = "auto"
    output_dir: str = ""
    overwrite: bool = False
    resume: bool = False

    @classmethod
    def parse(cls, run_config: Mapping[str, Any]) -> RunConfig:
        """Return the config for kebab-case keys, as in Flower's context.

        Raises
        ------
        InputError
            For unknown keys, wrong types and values out of range, all in one message; then for parts that are unknown
            or have wrong settings; then for values that do not fit together.
        """
        config = cls.read(run_config)
        _raise(config._part_problems())
        _raise(config._conflicts())
        return config

    @classmethod
    def read(cls, run_config: Mapping[str, Any]) -> RunConfig:
        """Return the config after checking keys, types and ranges only: no part is imported.

        Raises
        ------
        InputError
            For unknown keys, wrong types and values out of range, all in one message.
        """
        known = _annotations()
        problems = list(moved.sentences(run_config))
        problems += [unknown_key(key, run_config) for key in run_config if key not in known and key not in moved.HOMES]
        values: dict[str, Any] = {}
        for key, annotation in known.items():
            if key in run_config:
                try:
                    value = checked(key, run_config[key], annotation)
                    values[key.replace("-", "_")] = value
                    if key in PART_KEYS:
                        part_text.parse(value, key)
                except InputError as problem:
                    problems.append(str(problem))
        _raise(problems)
        return cls(**values)

    def _part_problems(self) -> list[str]:
        from flower_kd import catalog, devices, wire

        problems = catalog.problems(asdict(self))
        for check, value in ((devices.device, self.device), (wire.noise.get, self.wire_noise)):
            try:
                check(value)
            except InputError as error:
                problems.append(str(error))
        return problems

    def _conflicts(self) -> list[str]:
        """Return the conflicts between values that are valid by themselves."""
        from flower_kd import schedule, strategies
        from flower_kd.strategies.base import no_patience

        found = []
        cls = strategies.STRATEGIES.get(self.strategy)
        own = part_text.parse(self.strategy, "strategy").arguments
        try:
            phases = [self.num_server_rounds]
            if issubclass(cls, strategies.GraphStrategy):
                phases = cls.phases_of(self.num_server_rounds, own)
            for rounds in dict.fromkeys(phases):
                schedule.factors(self.schedule, rounds * self.local_steps)
        except InputError as error:
            found.append(str(error))
        exchange = self.exchange_every or self.local_steps
        if self.local_steps % exchange:
            found.append(f"exchange-every = {exchange} does not divide local-steps = {self.local_steps}")
        distills = issubclass(cls, strategies.DistillationStrategy) and cls.needs_reference(own)
        if distills and self.reference_size == 0:
            found.append(f"reference-size = 0: strategy {self.strategy!r} needs a reference set")
        if self.exchange_rows > self.reference_size:
            found.append(f"exchange-rows = {self.exchange_rows} is above reference-size = {self.reference_size}")
        if self.overwrite and self.resume:
            found.append("overwrite = true and resume = true cannot be used together")
        if self.patience and not self.validation_share:
            found.append(f"patience = {self.patience} needs samples that nodes hold out: validation-share above 0")
        if why := no_patience(cls, self.patience, f"strategy {self.strategy!r}"):
            found.append(why)
        if getattr(cls, "same_model", False) and len(part_text.split(self.model)) > 1:
            found.append(
                f"strategy {self.strategy!r} averages weights, so all nodes need one model: model = {self.model!r} "
                "lists several"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the config by kebab-case keys."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}

    def data_spec(self, num_nodes: int) -> DataSpec:
        """Return how the data set is split over the nodes."""
        from flower_kd import data

        own = {spec.name for spec in fields(data.DataSpec)} & {spec.name for spec in fields(self)}
        values = {name: getattr(self, name) for name in own}
        values["partition"] = self._with_settings(self.partition, data.PARTITIONS)
        return data.DataSpec(num_partitions=num_nodes, **values)

    def graphs(self, num_nodes: int) -> GraphSequence:
        """Return the communication graph of each exchange."""
        from flower_kd import topology

        name = self.topology
        text = name if topology.is_file(name) else self._with_settings(name, topology.TOPOLOGIES)
        exchanges = self.num_server_rounds * (self.local_steps // (self.exchange_every or self.local_steps))
        return topology.sequence(text, num_nodes, seed=self.seed, exchanges=exchanges)

    def graph(self, num_nodes: int) -> nx.Graph:
        """Return the communication graph; if it varies, the union over all exchanges."""
        return self.graphs(num_nodes).union

    def build_strategy(self, graph: nx.Graph | GraphSequence) -> Any:
        """Return the strategy on a graph."""
        from flower_kd import strategies
        from flower_kd.catalog import REGISTRIES

        kinds = ("dissimilarity", "pooling", "consensus", "wire", "compression")
        parts = {kind: self._with_settings(getattr(self, kind), REGISTRIES[kind]) for kind in kinds}
        return strategies.build(self.strategy, graph, asdict(self) | parts)

    @property
    def common_weights(self) -> bool:
        """Whether nodes with the same model start from equal weights; by default if the strategy averages weights."""
        if self.initial_weights == "auto":
            from flower_kd import strategies

            return bool(getattr(strategies.STRATEGIES.get(self.strategy), "same_model", False))
        return self.initial_weights == "common"

    def models(self, num_nodes: int) -> set[str]:
        """Return the models of all vertices, with their settings."""
        from flower_kd import models

        return {self._with_settings(name, models.MODELS) for name in set(models.assign(self.model, num_nodes))}

    def model_of(self, vertex: int, num_nodes: int) -> str:
        """Return the model that a vertex trains, with its settings."""
        from flower_kd import models

        return self.named_model(models.assign(self.model, num_nodes)[vertex])

    def named_model(self, name: str) -> str:
        """Return a model with its settings: those that its text leaves open have the values of keys."""
        from flower_kd import models

        return self._with_settings(name, models.MODELS)

    def _with_settings(self, text: str, registry: Registry[Any]) -> str:
        """Return the text of a part in which the settings that it leaves open have the values of keys.

        What the strategy's parentheses set counts for its parts too.
        """
        return registry.filled(text, asdict(self) | dict(part_text.parse(self.strategy, "strategy").arguments))


def check_keys(keys: Iterable[str]) -> None:
    """Raise InputError if there are no keys of these names, for all of them in one message."""
    _raise([unknown_key(key, {}) for key in keys if key not in _annotations()])


@cache
def _annotations() -> dict[str, Any]:
    """Return the annotation of each key, in the order of the keys."""
    return {name.replace("_", "-"): kind for name, kind in get_type_hints(RunConfig, include_extras=True).items()}


def unknown_key(key: str, run_config: Mapping[str, Any]) -> str:
    """Return the sentence about an unknown key of a run config: which key was meant, or which part's setting it is."""
    if not get_close_matches(key, _annotations(), cutoff=_TYPO) and (found := _part_setting(key, run_config)):
        return found
    near = get_close_matches(key, _annotations(), n=3, cutoff=0.6)
    if not near:
        words = set(key.replace("_", "-").split("-"))
        near = [known for known in _annotations() if words & set(known.split("-"))][:3]
    if near:
        return f"unknown key {key!r}, did you mean {' or '.join(map(repr, near))}?"
    return f"unknown key {key!r} (`flower-kd settings` lists all keys)"


def _part_setting(key: str, run_config: Mapping[str, Any]) -> str:
    """Return that an unknown key is the setting of a part, and how to write it; empty if it is none."""
    from flower_kd import catalog  # imports torch: only once the run config is known to be wrong

    setting = key.replace("-", "_")
    choices = []
    for kind, parts in catalog.owners(setting).items():
        try:
            chosen = part_text.parse(run_config.get(kind, ""), kind)
        except InputError:  # it is not set, or reported by itself
            chosen = part_text.PartText("")
        is_named = chosen.name in parts
        base = chosen if is_named else part_text.PartText(parts[0])
        values = {name: part_text.written(value) for name, value in base.arguments.items()}
        values[setting] = part_text.written(run_config[key]) if key in run_config else "..."
        text = f"{base.name}({', '.join(f'{name}={value}' for name, value in values.items())})"
        choices.append((not is_named, f"of the {kind} {' or '.join(parts)}: write {kind} = {text!r}"))
    if not choices:
        return ""
    return f"unknown key {key!r}: it is a setting {min(choices, key=lambda choice: choice[0])[1]}"


def _raise(problems: list[str]) -> None:
    if problems:
        raise InputError(problems[0] if len(problems) == 1 else f"{len(problems)} problems: " + "; ".join(problems))
