"""Checks of every node's reply by type, range and size, before anything else processes it.

What passes is safe to count, average and write. Arrays have the layout they claim; their content is checked where they
are decoded and the expected shape is known (`wire.decode`, `wire.decode_weights`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, NotRequired, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from flower_kd.errors import InputError
from flower_kd.failures import one_line, reason
from flower_kd.parts.values import misfit
from flower_kd.protocol import (
    ARRAYS,
    BUILD,
    BUILT,
    CONFIG,
    EVALUATION,
    HELLO,
    JOIN,
    LOGITS,
    METRICS,
    START_WEIGHTS,
    UPDATE,
    Built,
    Hello,
    Text,
)
from flower_kd.wire import Arrays, check_layout, read, short_repr
from flower_kd.wire.compression import NONE

T = TypeVar("T")

MOST_METRICS = 64
MOST_ARRAYS = 100_000
LONGEST_ERROR = 10_000


def _of_64_bits(value: object) -> object:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("should fit into 64 bits")
    return value


# What a node may report. The largest float32 leaves room in float64 for squares, and for sums over all nodes.
Number = Annotated[float, Field(allow_inf_nan=False, ge=-3.5e38, le=3.5e38), BeforeValidator(_of_64_bits)]
Loss = Annotated[float, Field(allow_inf_nan=False, ge=0, le=3.5e38)]
Share = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1)]
Samples = Annotated[int, Field(ge=1, le=10**12)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e9)]
# Columns of history.csv that the server fills are refused.
MetricName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
RESERVED = re.compile(r"round|vertex|vertices|bytes-shared|test-.*")

_strict = ConfigDict(strict=True)
_TrainReport = TypedDict(
    "_TrainReport",
    {
        "num-examples": Samples,
        "train-loss": NotRequired[Loss],
        "label-gradient": NotRequired[Loss],
        "kd-gradient": NotRequired[Loss],
        "accuracy": NotRequired[Share],
        "loss": NotRequired[Loss],
        "validation-accuracy": NotRequired[Share],
        "validation-loss": NotRequired[Loss],
        "seconds": NotRequired[Seconds],
    },
)
_EvaluateReport = TypedDict(
    "_EvaluateReport",
    {
        "accuracy": Share,
        "num-examples": NotRequired[Samples],
        "loss": NotRequired[Loss],
        "validation-accuracy": NotRequired[Share],
        "validation-loss": NotRequired[Loss],
        "seconds": NotRequired[Seconds],
    },
)
_NUMBERS = TypeAdapter(Annotated[dict[MetricName, Number], Field(max_length=MOST_METRICS)], config=_strict)
_NAMES = TypeAdapter(Annotated[list[Text], Field(max_length=MOST_ARRAYS)], config=_strict)
_KNOWN: dict[str, TypeAdapter[Any]] = {
    MessageType.TRAIN: TypeAdapter(with_config(_strict)(_TrainReport)),
    MessageType.EVALUATE: TypeAdapter(with_config(_strict)(_EvaluateReport)),
}
_HELLO = TypeAdapter(with_config(ConfigDict(strict=True, revalidate_instances="always"))(Hello))
_BUILT = TypeAdapter(with_config(ConfigDict(strict=True, revalidate_instances="always"))(Built))


def hello(message: Message, reply: Message) -> Hello:
    """Return a node's Hello from its reply to the handshake; raises InputError if it is invalid."""
    content = _records(message, reply)
    found = _checked(_HELLO, Hello.from_record(content[HELLO]), "handshake")
    if found.pruned > found.parameters:
        raise InputError(f"pruned = {found.pruned} in its handshake is above parameters = {found.parameters}")
    return replace(found, error=one_line(found.error)) if found.error else found


def built(message: Message, reply: Message) -> Built:
    """Return a node's answer to whether it can build networks; raises InputError if it is invalid."""
    found = _checked(_BUILT, Built.from_record(_records(message, reply)[BUILT]), "answer")
    return replace(found, error=one_line(found.error))


def metrics(message: Message, reply: Message) -> dict[str, float]:
    """Return the metrics of a reply to a train or evaluate message.

    Raises
    ------
    InputError
        If the node failed; if records are missing or were not requested; or if a metric has the wrong type, is out of
        range, or has a reserved name.
    """
    record = _records(message, reply)[METRICS]
    return _report(record, message.metadata.message_type, "report")


def evaluation(message: Message, reply: Message) -> dict[str, float]:
    """Return the metrics of an evaluation in a checked reply to a train message, if it has one.

    Raises
    ------
    InputError
        If one of them has the wrong type, is out of range, or has a reserved name.
    """
    record = reply.content.get(EVALUATION)
    return {} if record is None else _report(record, MessageType.EVALUATE, "evaluation")


def _report(metrics: Any, kind: str, what: str) -> dict[str, float]:
    """Return the metrics in a record, of training or evaluation by the type of message that asks for them."""
    record = dict(metrics)
    numbers = _checked(_NUMBERS, record, what)
    reserved = next((name for name in numbers if RESERVED.fullmatch(name)), None)
    if reserved:
        raise InputError(f"{reserved!r} in its {what} is a reserved name")
    _checked(_KNOWN[kind], record, what)
    return numbers


def start_weights(message: Message, reply: Message) -> Arrays:
    """Return the weights in the reply to a request for them; raises InputError if there are none, or not readable."""
    return {name: read(name, array) for name, array in _records(message, reply)[ARRAYS].items()}


def check_names(known: set[str], metrics: dict[str, float]) -> None:
    """Raise InputError if a node reports too many different metrics in one run: each is a column of the history.

    Parameters
    ----------
    known : set of str
        The names that the node has reported before; those of this report are added.
    metrics : dict
        The node's report.
    """
    if len(known.union(metrics)) > MOST_METRICS:
        raise InputError(f"its reports have more than {MOST_METRICS} different metrics")
    known.update(metrics)


def _records(message: Message, reply: Message) -> Any:
    """Return a reply's content, which must be exactly the records that the message requested."""
    if reply.has_error():
        raise InputError(f"it failed: {one_line(reason((reply.error.reason or '')[:LONGEST_ERROR]))}")
    sent, received = message.metadata, reply.metadata
    if received.message_type != sent.message_type:
        raise InputError(
            f"its reply is for a {short_repr(received.message_type)} message, not for a {sent.message_type!r} message"
        )
    if received.src_node_id != sent.dst_node_id:
        raise InputError(f"its reply says it comes from node {short_repr(received.src_node_id)}")
    wanted = _wanted(message, reply)
    for name, kind in wanted.items():
        if name not in reply.content:
            raise InputError(f"its reply has no {name if name != ARRAYS else 'weights'}")
        if not isinstance(reply.content[name], kind):
            raise InputError(
                f"its reply has a {type(reply.content[name]).__name__} for {name!r}, not a {kind.__name__}"
            )
    unknown = next((name for name in reply.content if name not in wanted), None)
    if unknown is not None:
        raise InputError(f"its reply has a record {short_repr(unknown)} that was not requested")
    for name, record in reply.content.items():
        if isinstance(record, ArrayRecord):
            _checked(_NAMES, list(record), name)
            check_layout(record)
    return reply.content


def _wanted(message: Message, reply: Message) -> dict[str, type]:
    """Return the records that the reply to a message must contain; compressed weights may come as they are.

    An evaluation may be missing: the node is then asked for it by a message of its own.
    """
    kind = message.metadata.message_type
    if kind == JOIN:
        return {HELLO: ConfigRecord}
    if kind == BUILD:
        return {BUILT: ConfigRecord}
    if kind == START_WEIGHTS:
        return {ARRAYS: ArrayRecord}
    if kind == MessageType.EVALUATE:
        return {METRICS: MetricRecord}
    wanted: dict[str, type] = {METRICS: MetricRecord}
    record = message.content.get(CONFIG)
    asked = record.get("reply", "weights") if isinstance(record, ConfigRecord) else "weights"
    if asked == "logits":
        wanted[LOGITS] = ArrayRecord
    elif asked != "nothing":
        compressed = isinstance(record, ConfigRecord) and record.get("compression", NONE) != NONE
        wanted[UPDATE if compressed and UPDATE in reply.content else ARRAYS] = ArrayRecord
    if EVALUATION in reply.content and isinstance(record, ConfigRecord) and record.get("evaluate"):
        wanted[EVALUATION] = MetricRecord
    return wanted


def _checked(adapter: TypeAdapter[T], values: object, what: str) -> T:
    """Return values as an adapter's type; raises InputError for the first value that does not fit."""
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        found = misfit(error)
    name = " ".join(short_repr(part) for part in found.place if part != "[key]")
    match found.kind:
        case "missing":
            raise InputError(f"its {what} lacks {name}")
        case "too_long":
            raise InputError(f"its {what} has too many entries")
        case "predicate_failed":
            problem = "should be printable text"
        case _:
            problem = found.words
    raise InputError(f"{name} = {short_repr(found.value)} in its {what} {problem}")
