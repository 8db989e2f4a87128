"""The message contract of strategies and clients: records, their fields, and what both sides compute alike."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Interval, MaxLen, Predicate
from flwr.app import ConfigRecord

from flower_kd.errors import InputError
from flower_kd.seeding import derive

# Message types (Flower routes a message by type; "query" carries the handshake).
JOIN = "query.join"
START_WEIGHTS = "query.weights"
BUILD = "query.build"

# Names of the records in a message. "arrays", "config" and "metrics" are those of Flower's own strategies.
ARRAYS = "arrays"
UPDATE = "update"
CONFIG = "config"
METRICS = "metrics"
EVALUATION = "evaluation"
TEACHER = "teacher"
TEACHER_WEIGHTS = "teacher-weights"
LOGITS = "logits"
HELLO = "hello"
BUILT = "built"


# Names of metrics that nodes with validation data report.
VALIDATION_ACCURACY = "validation-accuracy"
VALIDATION_LOSS = "validation-loss"

# In the config of an evaluate message: the node is evaluated with its best weights by validation, and keeps them.
BEST = "best"

# The stage of a run in which nodes train alone, for comparison; the other stage has the strategy's name.
ALONE = "alone"

# The error code of a node that has lost its state, in a restart under the same id: it must be greeted again.
NOT_JOINED = 4801
LAST = -1  # an `Order.taught` of the previous exchange

NO_BASE = 0  # an `Order.base` of nothing; no digest is 0
SEEDED_NOISE = -1  # a `Hello.noised_messages` of a node whose noise anybody with the seed could compute

Reply = Literal["nothing", "logits", "weights", "network"]
TeacherMode = Literal["eval", "train"]

# Plausible ranges for what a node reports; the server checks them (strategies/inbox.py), the node does not.
Place = Annotated[int, Interval(ge=-1, lt=2**31)]
Count = Annotated[int, Interval(ge=0, lt=2**31)]
Size = Annotated[int, Interval(ge=0, lt=2**53)]
Text = Annotated[str, MaxLen(200), Predicate(str.isprintable)]
PartName = Annotated[str, MaxLen(2000), Predicate(str.isprintable)]  # as long as in the run config


@dataclass(frozen=True)
class _Record:
    """A dataclass that travels as a ConfigRecord with kebab-case keys."""

    def to_record(self) -> ConfigRecord:
        """Return the fields as a ConfigRecord, without those that have their default: it is part of every message."""
        values = ((key, getattr(self, each.name), _default(each)) for each, key in self._keys())
        return ConfigRecord({key: value for key, value, default in values if value != default})

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Self:
        """Return the dataclass; missing fields have their defaults, unknown ones are ignored.

        Raises
        ------
        InputError
            If a field without a default is missing.
        """
        found: dict[str, Any] = {field.name: record[key] for field, key in cls._keys() if key in record}
        try:
            return cls(**found)
        except TypeError as error:
            raise InputError(f"the message comes from another version or sender: {error}") from None

    @classmethod
    def _keys(cls) -> list[tuple[Field[Any], str]]:
        return [(each, each.name.replace("_", "-")) for each in fields(cls)]


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@dataclass(frozen=True)
class Greeting(_Record):
    """The server's part of the handshake.

    Parameters
    ----------
    fresh : bool
        Whether the node starts from its initial weights; if not, it keeps its current ones.
    token : str
        Of the run's folder (`flower_kd.folders`), in which nodes on the server's machine keep their states. Empty if
        there is no such folder.
    stage : str
        The part of the run that begins: "alone" or the strategy's name.
    server_round : int
        In a resumed run: the last finished round.
    dissimilarity : str
        The dissimilarity that the node will need; empty for none.
    wire : str
        The wire format that the node will need; empty for none.
    total_steps : int
        SGD steps of each node in the run that begins; 0 if unknown.
    class_counts : bool
        Whether the node must say how many private samples of each class it has.
    compression : str
        The compression of weights that the node will need; empty for none.
    wire_coding : {"plain", "entropy", "delta"}
        How arrays in this format become bytes.
    wire_noise : str
        The noise on logits that the node will be asked for.
    logit_adjustment : float
        As in the orders that follow: above 0, the node must be able to count its labels.
    patience : int
        Above 0, the node must have validation data, by which it will be stopped.
    pooling : str
        The pooling that the node itself will need; empty for none.
    two_heads : bool
        Whether the node's model must be a `flower_kd.models.TwoHeads`.
    phase_steps : list of int
        SGD steps of each phase of the run, if there are several: a learning-rate schedule runs over each by itself.
    """

    fresh: bool = True
    token: str = ""
    stage: str = ""
    server_round: int = 0
    dissimilarity: str = ""
    wire: str = ""
    total_steps: int = 0
    class_counts: bool = False
    compression: str = ""
    wire_coding: str = "plain"
    wire_noise: str = "none"
    logit_adjustment: float = 0.0
    patience: int = 0
    pooling: str = ""
    two_heads: bool = False
    phase_steps: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class BuildRequest(_Record):
    """The server's question after the handshake whether a node can build the networks of its neighbors.

    Parameters
    ----------
    networks : list of str
        Their names, as in `Hello.model`.
    parameters : list of int
        Their numbers of parameters, as in `Hello.parameters`.
    pruned : list of int
        How many of them are pruned, as in `Hello.pruned`.
    """

    networks: list[str]
    parameters: list[int]
    pruned: list[int]


@dataclass(frozen=True)
class Built(_Record):
    """A node's answer to a BuildRequest.

    Parameters
    ----------
    failed : int
        The place of the first network that it cannot build; -1 if it can build all.
    error : str
        Why, in one sentence.
    """

    failed: Place = -1
    error: str = ""


@dataclass(frozen=True)
class Hello(_Record):
    """A node's answer to the handshake.

    Parameters
    ----------
    vertex : int
        The node's vertex in the graph, from `partition-id` in its node config; -1 if it only has a name.
    name : str
        `name` in its node config, for graphs from a file that name their vertices.
    partitions : int
        `num-partitions` in its node config; 0 if it has none.
    classes : int
        Width of the model's logits.
    model : str
        The model that the node trains.
    parameters : int
        The model's number of parameters, pruned ones included.
    pruned : int
        How many of them are pruned.
    mask : str
        SHA-256 of which weights are kept; empty if none is pruned.
    weights_bytes : int
        Bytes of a message with its weights.
    stored_bytes : int
        Bytes of a file with its weights.
    reference_rows : int
        Rows of its reference set.
    fingerprint : str
        SHA-256 of its reference set.
    fresh : bool
        Whether it starts from its initial weights rather than those of an earlier message.
    error : str
        Why the node cannot take part, in one sentence; empty if it can.
    restored_round : int
        The round whose weights it restored; 0 for initial weights.
    class_counts : list of int
        Its number of private samples of each class; empty unless the greeting asks for it.
    noised_messages : int
        How many messages with noise of its own it has sent in this run; -1 (`SEEDED_NOISE`) if its noise follows from
        the run's seed, or it is to send none.
    """

    vertex: Place
    name: Text = ""
    partitions: Count = 0
    classes: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    model: PartName = ""
    parameters: Size = 0
    pruned: Size = 0
    mask: Text = ""
    weights_bytes: Size = 0
    stored_bytes: Size = 0
    reference_rows: Annotated[int, Interval(ge=0, le=100_000_000)] = 0
    fingerprint: Text = ""
    fresh: bool = True
    error: str = ""
    restored_round: Count = 0
    class_counts: Annotated[list[Count], MaxLen(1_000_000)] = field(default_factory=list)
    noised_messages: Place = SEEDED_NOISE


@dataclass(frozen=True)
class Order(_Record):
    """What a node should do on one train message.

    Parameters
    ----------
    server_round : int
        The round, from 1.
    num_steps : int
        SGD steps to take.
    step : int
        Number of earlier steps in the run; -1 stands for `(server_round - 1) * num_steps`.
    vertex : int
        The node's vertex; -1 stands for its partition-id.
    seed : int
        The run's seed.
    reply : {"nothing", "logits", "weights", "network"}
        What to send back beside the metrics; "network" are the weights of head 1 and its backbone.
    exchange : int
        Which exchange the reply's rows belong to (`exchanged_rows`); the teacher's are those of the previous one, or of
        this one if `joint`, unless `taught` says otherwise.
    joint : bool
        Take the reply's logits from the forward pass of the last step, whose reference rows are also those of the
        teacher, if there is one: no further pass is needed, except for models with batch normalization.
    exchange_rows : int
        Reference rows in one exchange; 0 for all.
    reference_batch : int
        Reference rows in one SGD step; 0 for all rows of the teacher.
    wire : str
        The wire format of the teacher in this message and of the logits in the reply.
    wire_coding : {"plain", "entropy", "delta"}
        How arrays in this format become bytes.
    wire_noise : str
        The noise on the logits in the reply (`flower_kd.wire.noise`).
    base : int
        The digest (`flower_kd.wire.digest`) of what the receiver of the reply already has, so that the reply may leave
        it out; 0 (`NO_BASE`) if it has nothing. With the coding "delta", these are the rows that the node sent before;
        with a compression, the weights from which an update is the difference. A node that has something else, because
        a reply was lost or it has lost its own state, sends everything.
    dissimilarity : str
        The dissimilarity in the distillation term.
    temperature : float
        T of the student's softmax in the distillation term, above 0.
    kd_reduction : {"mean", "sum"}
        Of the distillation term over the rows of a step.
    label_weight : float
        Factor of the label term.
    kd_weight : float
        Factor of the distillation term.
    logit_adjustment : float
        How far the reply's logits are corrected for the classes that the node was trained on: 0 for not at all, 1 as if
        it had seen all equally often.
    keep : bool
        Whether these steps end a round, after which a node that keeps its state on disk saves it.
    evaluate : bool
        Whether the node is evaluated after these steps, and replies with the record "evaluation" too. A node whose
        evaluation fails leaves it out, and says why when it is asked again by an evaluate message.
    total_steps : int
        SGD steps of the run, or of its phase, over which nodes schedule their learning rates; 0 if unknown.
    phase_start : int
        Number of steps in the run before this phase.
    compression : str
        The compression of the weights in the reply: it then has an update of the node's base, the weights that the node
        had when it received this message.
    moving_base : bool
        Whether updates also move the base, as in CHOCO-SGD; what compression leaves out then stays in the node's
        weights. If not, it is added to the next update (error feedback).
    record_gradients : bool
        Whether the node also reports how large the gradients of both losses are at its logits.
    stopped : bool
        Whether the node, instead of training, takes back its best weights by validation, and replies with these.
    head : int
        Which head of a `flower_kd.models.TwoHeads` is trained, 1 or 2; 0 for any other model. A node keeps the teacher
        with which it trains head 2 for all later orders.
    best_head_1 : bool
        Whether head 1 ends with its best weights by validation: after the steps of an order that trains it, those
        included, or else before head 2 begins.
    frozen_backbone : bool
        Whether only the head itself is trained.
    networks : list of str
        The names of the networks of neighbors in this message. They become the node's teachers: their logits on its own
        private batches are pooled. The record "teacher-weights" has their weights, after the node's own.
    pooling : str
        How they are pooled; empty if the node's teacher is about reference rows.
    teacher_mode : {"eval", "train"}
        Mode of these networks: "train" normalizes by the statistics of the batch.
    taught : int
        Which exchange the teacher's rows belong to, for a node that missed exchanges; -1 (`LAST`) for the previous one,
        or this one if `joint`.
    """

    server_round: int
    num_steps: int
    seed: int = 0
    step: int = -1
    vertex: int = -1
    reply: Reply = "weights"
    exchange: int = 0
    joint: bool = False
    exchange_rows: int = 0
    reference_batch: int = 0
    wire: str = "float32"
    wire_coding: str = "plain"
    wire_noise: str = "none"
    base: int = 0
    dissimilarity: str = "kl"
    temperature: float = 1.0
    kd_reduction: str = "mean"
    label_weight: float = 1.0
    kd_weight: float = 0.0
    logit_adjustment: float = 0.0
    keep: bool = False
    evaluate: bool = False
    total_steps: int = 0
    phase_start: int = 0
    compression: str = "none"
    moving_base: bool = False
    record_gradients: bool = False
    stopped: bool = False
    head: int = 0
    best_head_1: bool = False
    frozen_backbone: bool = False
    networks: list[str] = field(default_factory=list)
    pooling: str = ""
    teacher_mode: TeacherMode = "eval"
    taught: int = LAST

    @property
    def first_step(self) -> int:
        """The number of this order's first step in the run, from 0."""
        return self.step if self.step >= 0 else (self.server_round - 1) * self.num_steps


def network_record(place: int) -> str:
    """Return the name of the record with the weights of a neighbor's network, by its place in `Order.networks`."""
    return f"network-{place}"


def exchanged_rows(seed: int, exchange: int, reference_rows: int, exchange_rows: int) -> np.ndarray:
    """Return the reference rows of one exchange, computed on both sides so that no index is sent.

    Parameters
    ----------
    seed : int
        The run's seed.
    exchange : int
        The exchange's number, from 0.
    reference_rows : int
        Size of the reference set.
    exchange_rows : int
        Rows per exchange; 0 or the full size for all, in order.

    Returns
    -------
    ndarray
        Row numbers [rows]. Every row is exchanged once before any row is repeated.
    """
    if exchange_rows <= 0 or exchange_rows >= reference_rows:
        return np.arange(reference_rows)
    per_pass = reference_rows // exchange_rows
    order = _row_order(seed, exchange // per_pass, reference_rows)
    start = exchange % per_pass * exchange_rows
    return order[start : start + exchange_rows]


@lru_cache(maxsize=4)
def _row_order(seed: int, reference_pass: int, reference_rows: int) -> np.ndarray:
    return np.random.default_rng(derive(seed, "exchanged rows", reference_pass)).permutation(reference_rows)
