"""Replies of broken or hostile nodes: seeded mutations of records and messages."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

NUMBERS: list[Any] = [0, 1, -1, -50, 2**31, 2**62, -(2**63), 2**63 - 1]
NUMBERS += [0.0, -0.0, 0.5, -1e-9, 1.0000001, 5.0, 1e200, -1e300, 3.4e38, 1e-320, float("nan"), float("inf")]
TEXTS = ["", "x" * 100_000, "a\nb", "\x1b[31mred", "\u202egnirts", "[/b]", "1", "nan", "node 1", "ß", "\x00"]
NAMES = [
    *TEXTS[1:],
    "round",
    "vertex",
    "bytes-shared",
    "test-accuracy",
    "accuracy",
    "loss",
    "num-examples",
    "train-loss",
]
DTYPES = [
    "float64",
    "float16",
    "complex64",
    "int64",
    "uint8",
    "bool",
    "object",
    "S4",
    "<f4",
    "f4,f4",
    "",
    "m8[s]",
    "V8",
]
HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "(" * 3000 + ")" * 3000,
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'shape': (1e400,), ",
    "'\\N{no such name}'",
    "{" * 90 + "\\\n",
]
FILES = [
    b"",
    b"PK\x03\x04" + b"\x00" * 40,
    b"PK\x05\x06" + b"\xff" * 18,
    b"\x80\x04cos\nsystem\n.",
    b"\x93NUMPY\x09\x00",
]


def array(rng: random.Random, value: Array) -> Array:
    """Return an array with something changed."""
    dtype, shape, stype, data = value.dtype, tuple(value.shape), value.stype, bytearray(value.data)
    kind = rng.randrange(12)
    if kind == 0 and data:
        for _ in range(rng.choice([1, 2, 40])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1 and data:  # mostly in the header
        for _ in range(rng.choice([1, 3, 9])):
            data[rng.randrange(min(128, len(data)))] = rng.choice(b"'{}(),:<|fiuOL0123456789 \n\x00\xff")
    elif kind == 2:
        del data[rng.randrange(len(data) + 1) :]
    elif kind == 3:
        data += rng.randbytes(rng.choice([1, 4, 100]))
    elif kind == 4:
        dtype = rng.choice(DTYPES)
    elif kind == 5:
        sizes = [0, 1, -1, 2, 2**31 - 1, 2**31, 2**62, 10**7]
        shape = tuple(rng.choice(sizes) for _ in range(rng.choice([0, 1, 2, 3, 40])))
    elif kind == 6:
        stype = rng.choice(["pickle", "", "numpy.ndarray ", "torch", "x" * 5000])
    elif kind == 7:
        text = rng.choice(HEADERS).encode()
        version = rng.choice([b"\x01\x00", b"\x02\x00", b"\x03\x00"])
        length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
        data = bytearray(b"\x93NUMPY" + version + length + text + bytes(data[128:]))
    elif kind == 8:
        data = bytearray(rng.choice(FILES))
    elif kind == 9 and len(data) > 128:  # odd values where the values are
        odd = np.array(rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 7e4, 1e-45]), np.float32).tobytes()
        start = 128 + 4 * rng.randrange(max((len(data) - 128) // 4, 1))
        data[start : start + 4] = odd
    elif kind == 10:
        return Array(np.zeros((3, 4), rng.choice([np.float64, np.complex64, np.int64, np.float16, bool])))
    elif kind == 11:
        return Array(np.asfortranarray(np.zeros((3, 5), np.float32)))
    return Array(dtype, shape, stype, bytes(data))


def arrays(rng: random.Random, record: ArrayRecord) -> ArrayRecord:
    """Return a record of arrays with something changed."""
    found = dict(record)
    for _ in range(rng.choice([1, 1, 2])):
        kind, name = rng.randrange(8), rng.choice(list(found) or [""])
        if kind == 0:
            found.pop(name, None)
        elif kind == 1:
            found[rng.choice([*NAMES, "scale", "offset", "rows", "weights"])] = Array(np.zeros(3, np.float32))
        elif kind == 2 and name in found:
            found[rng.choice(NAMES)] = found.pop(name)
        elif name in found:
            found[name] = array(rng, found[name])
    return ArrayRecord(found)


def metrics(rng: random.Random, record: MetricRecord) -> MetricRecord:
    """Return metrics with something changed."""
    found: dict[str, Any] = dict(record)
    for _ in range(rng.choice([1, 1, 3])):
        kind, name = rng.randrange(6), rng.choice(list(found) or ["accuracy"])
        if kind == 0:
            found.pop(name, None)
        elif kind == 1:
            found[rng.choice(NAMES)] = rng.choice(NUMBERS)
        elif kind == 2:
            found[name] = [rng.choice(NUMBERS[:8]) for _ in range(rng.choice([0, 1, 50]))]
        elif kind == 3 and rng.random() < 0.05:
            found |= {f"metric{i}": 0.5 for i in range(20_000)}
        else:
            found[name] = rng.choice(NUMBERS)
    return MetricRecord(found)


def config(rng: random.Random, record: ConfigRecord) -> ConfigRecord:
    """Return a ConfigRecord, such as a Hello, with something changed."""
    found: dict[str, Any] = dict(record)
    odd = [*NUMBERS, *TEXTS, True, False, b"bytes", [], [1, 2], ["a"], [0.5], [True], 10**9, "0", 2.0]
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind, name = rng.randrange(8), rng.choice(list(found) or ["vertex"])
        if kind == 0:
            found.pop(name, None)
        elif kind == 1:
            found[rng.choice(NAMES)] = rng.choice(odd)
        else:
            found[name] = rng.choice(odd)
    return ConfigRecord(found)


MUTATIONS = {ArrayRecord: arrays, MetricRecord: metrics, ConfigRecord: config}


def content(rng: random.Random, records: RecordDict) -> RecordDict:
    """Return a reply's content with something changed."""
    found: dict[str, Any] = dict(records)
    kind, name = rng.randrange(10), rng.choice(list(found) or [""])
    if kind == 0:
        found.pop(name, None)
    elif kind == 1:
        found[rng.choice(["extra", "metrics2", "config", "arrays", "logits", "hello", *TEXTS[1:]])] = rng.choice(
            [MetricRecord({"a": 1}), ConfigRecord({"a": 1}), ArrayRecord()]
        )
    elif kind == 2:
        found[name] = rng.choice([MetricRecord(), ConfigRecord(), ArrayRecord(), MetricRecord({"num-examples": 9})])
    elif name in found:
        found[name] = MUTATIONS[type(found[name])](rng, found[name])
    return RecordDict(found)


def reply(rng: random.Random, honest: Message) -> Message | None:
    """Return a reply in place of an honest one; None for no reply."""
    kind = rng.randrange(12)
    if kind == 0:
        return None
    if kind == 1 or honest.has_error():
        asked = Message(
            RecordDict(), dst_node_id=honest.metadata.src_node_id, message_type=honest.metadata.message_type
        )
        asked.metadata.__dict__["_message_id"] = honest.metadata.reply_to_message_id
        return Message(Error(rng.randrange(9), rng.choice([None, *TEXTS, "x\n" * 9999])), reply_to=asked)
    if kind == 2:
        honest.metadata.__dict__["_message_type"] = rng.choice(["train", "evaluate", "query.join", "query", "system"])
    elif kind == 3:
        honest.metadata.__dict__["_src_node_id"] = rng.choice([0, 1, 2**63])
    else:
        honest.content = content(rng, honest.content)
    return honest
