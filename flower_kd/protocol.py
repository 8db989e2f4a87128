"""What strategies and clients say to each other: records, their fields, and what both sides can compute."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Interval, MaxLen, Predicate
from flwr.app import ConfigRecord

from flower_kd.errors import InputError
from flower_kd.seeding import derive

# Message types (Flower routes a message by type; "query" carries the handshake).
JOIN = "query.join"

# Names of the records in a message. "arrays", "config" and "metrics" are those of Flower's own strategies.
ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
TEACHER = "teacher"
LOGITS = "logits"
HELLO = "hello"

# The stage of a run in which nodes train alone, for comparison; the other stage is called as the strategy.
ALONE = "alone"

Reply = Literal["nothing", "logits", "weights"]

# What is plausible of a node's sizes and texts; the server checks it (strategies/inbox.py), the node does not.
Place = Annotated[int, Interval(ge=-1, lt=2**31)]
Count = Annotated[int, Interval(ge=0, lt=2**31)]
Size = Annotated[int, Interval(ge=0, lt=2**53)]
Text = Annotated[str, MaxLen(200), Predicate(str.isprintable)]


@dataclass(frozen=True)
class _Record:
    """A dataclass that travels as a ConfigRecord with kebab-case keys."""

    def to_record(self) -> ConfigRecord:
        """Return the fields as a ConfigRecord."""
        return ConfigRecord({key: getattr(self, name) for name, key in self._keys()})

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Self:
        """Return the dataclass, with its defaults for fields the record lacks and without what it does not know.

        Raises
        ------
        InputError
            If a field without default is missing.
        """
        found: dict[str, Any] = {name: record[key] for name, key in cls._keys() if key in record}
        try:
            return cls(**found)
        except TypeError as error:
            raise InputError(f"a message of another version or sender: {error}") from None

    @classmethod
    def _keys(cls) -> list[tuple[str, str]]:
        return [(field.name, field.name.replace("_", "-")) for field in fields(cls)]


@dataclass(frozen=True)
class Greeting(_Record):
    """What the server says in the handshake.

    Parameters
    ----------
    fresh : bool
        Whether the node begins with initial weights; if not, it goes on with what it has.
    token : str
        Of the run's folder (`flower_kd.folders`): nodes on the server's machine keep their states in it. Empty where
        there is no such folder.
    stage : str
        Which part of the run begins, "alone" or the strategy.
    server_round : int
        In a run that goes on: the last round that is over.
    """

    fresh: bool = True
    token: str = ""
    stage: str = ""
    server_round: int = 0


@dataclass(frozen=True)
class Hello(_Record):
    """A node's answer to the handshake (design: one exchange).

    Parameters
    ----------
    vertex : int
        The node's vertex in the graph, from `partition-id` in its node config; -1 if it has only a name.
    name : str
        `name` in its node config, for graphs from a file that name their vertices.
    partitions : int
        `num-partitions` in its node config; 0 if it has none.
    classes : int
        Width of the model's logits.
    model, parameters, weights_bytes : str, int, int
        What the node trains, and how large its weights are, as numbers and as bytes of a serialized record.
    reference_rows, fingerprint : int, str
        Size and SHA-256 of its reference set.
    error : str
        Why the node cannot take part, in one sentence; empty if it can.
    restored_round : int
        The round after which its weights are those that it kept; 0 for initial weights.
    """

    vertex: Place
    name: Text = ""
    partitions: Count = 0
    classes: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    model: Text = ""
    parameters: Size = 0
    weights_bytes: Size = 0
    reference_rows: Annotated[int, Interval(ge=0, le=100_000_000)] = 0
    fingerprint: Text = ""
    error: str = ""
    restored_round: Count = 0


@dataclass(frozen=True)
class Order(_Record):
    """What a node shall do with one train message.

    Parameters
    ----------
    server_round : int
        The round, from 1.
    num_steps : int
        SGD steps to take.
    step : int
        Steps that came before in the run; -1 stands for `(server_round - 1) * num_steps`.
    vertex : int
        The node's vertex; -1 stands for its partition-id.
    seed : int
        The run's seed.
    reply : {"nothing", "logits", "weights"}
        What to send back beside the metrics.
    exchange : int
        Which exchange the reply's rows belong to (`exchanged_rows`); the teacher's are those of the one before, or of
        this one if `joint`.
    joint : bool
        Take the reply's logits from the forward pass of the last step, on rows that it also distills on where there is
        a teacher, which then speaks of the same rows: no other pass is needed.
    exchange_rows : int
        Reference rows in one exchange; 0 for all.
    reference_batch : int
        Reference rows in one SGD step; 0 for all that the teacher speaks of.
    wire : str
        The format in which logits travel back.
    dissimilarity, temperature, kd_reduction : str, float, str
        The distillation term.
    label_weight, kd_weight : float
        Factors of the label term and of the distillation term.
    keep : bool
        Whether a round is over after these steps, whose state a node keeps on disk if it keeps any there.
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
    dissimilarity: str = "kl"
    temperature: float = 1.0
    kd_reduction: str = "mean"
    label_weight: float = 1.0
    kd_weight: float = 0.0
    keep: bool = False

    @property
    def first_step(self) -> int:
        """The number of this order's first step in the run, from 0."""
        return self.step if self.step >= 0 else (self.server_round - 1) * self.num_steps


def exchanged_rows(seed: int, exchange: int, reference_rows: int, exchange_rows: int) -> np.ndarray:
    """Return which reference rows one exchange is about, so that no index needs to travel.

    Parameters
    ----------
    seed, exchange : int
        The run's seed; the exchange's number, from 0.
    reference_rows, exchange_rows : int
        Size of the reference set; rows an exchange (0, or as many as there are: all, in order).

    Returns
    -------
    ndarray
        Row numbers [rows]. Exchanges go through the whole set before a row comes back.
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
