"""What passes the port of a node, and what of it are the bytes in `summary.json`.

`pytest -m slow tests/engines/test_transport_bytes.py`. The figures here are those of docs/devices.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from devices import NODES, Devices
from relay import Conversation

from flower_kd.wire.sizes import METADATA_BYTES

pytestmark = pytest.mark.slow
ROUNDS = 5
CLASSES, ROWS = 100, 2500  # 1 MB of logits
CONFIG: dict[str, object] = {
    "strategy": "neighbor-kd", "baseline": "none", "num-server-rounds": ROUNDS, "local-steps": 4, "timeout": 120.0,
}  # fmt: skip

# Bytes up and down. An object is a Message, a RecordDict, a record, an Array or a chunk of one; what an object contains
# is what summary.json counts.
HEADS = (840, 130)  # of an HTTP request, with the node's key and signature, and of its answer
PULLED = (12, 132)  # message to a node: its metadata
CONFIRMED = (88, 0)
PUSHED = (233, 112)  # message from a node: its metadata
IN_TREE_DOWN, IN_TREE_UP = (0, 66), (66, 66)  # for each object of the message
OBJECT_DOWN, OBJECT_UP = (88, 128), (266, 2)  # its ids and its class
POLL, HEARTBEAT = (12, 0), (22, 2)
START = ("register-node", "activate-node", "get-run", "get-fab")  # once a process, or once a run


@dataclass
class Request:
    path: str
    up: int
    down: int


def requests(conversation: Conversation) -> Iterator[Request]:
    """Yield the HTTP requests of a connection."""
    asked, answered = list(_parts(bytes(conversation.up))), list(_parts(bytes(conversation.down)))
    assert len(asked) == len(answered)
    for (head, up, _), (_, down, body) in zip(asked, answered, strict=True):
        path = head.split()[1].rpartition("/")[2]
        yield Request("poll" if path == "pull-messages" and not body else path, up, down)


def _parts(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield for each HTTP message its head, its size and that of its body."""
    at = 0
    while at < len(data):
        end = data.index(b"\r\n\r\n", at) + 4
        head = data[at:end].decode()
        assert "content-encoding" not in head.lower()  # nothing is compressed
        lengths = [int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")]
        [body] = lengths
        yield head, end - at + body, body
        at = end + body
    assert at == len(data)


def added(counts: Counter[str]) -> tuple[int, int]:
    """Return the bytes up and down that Flower adds to those of messages."""
    objects_down, objects_up = counts["pull-object"], counts["push-object"]
    messages_down, messages_up = counts["pull-messages"], counts["push-messages"]
    terms = [
        (sum(counts[path] for path in counts if path not in START), HEADS),
        (counts["poll"], POLL),
        (counts["send-node-heartbeat"], HEARTBEAT),
        (messages_down, PULLED),
        (messages_down, CONFIRMED),
        (messages_up, PUSHED),
        (objects_down, IN_TREE_DOWN),
        (objects_up, IN_TREE_UP),
        (objects_down, OBJECT_DOWN),
        (objects_up, OBJECT_UP),
        (messages_up, (-METADATA_BYTES, 0)),  # summary.json counts metadata with ids of full width
        (messages_down, (0, -METADATA_BYTES)),
    ]
    return sum(times * up for times, (up, _) in terms), sum(times * down for times, (_, down) in terms)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set with enough classes and images for large messages."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    features = Features({"image": Image(), "label": ClassLabel(names=[f"c{label:02d}" for label in range(CLASSES)])})
    for split, each in (("train", ROWS // CLASSES + 4), ("test", 1)):
        labels = [label for label in range(CLASSES) for _ in range(each)]
        images = [PIL.Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in labels]
        Dataset.from_dict({"image": images, "label": labels}, features).to_parquet(str(folder / f"{split}.parquet"))
    return folder


@pytest.mark.parametrize("large", [False, True], ids=["labels", "logits"])
def test_bytes_at_the_port(tmp_path: Path, pictures: Path, *, large: bool) -> None:
    config = CONFIG | {"wire": "labels", "samples-per-node": 40}
    if large:
        config |= {"dataset": str(pictures), "wire": "float32", "reference-size": ROWS, "samples-per-node": 100}
    with ExitStack() as processes:
        devices = Devices(tmp_path, processes, warm=True)
        output = devices.run(config | {"output-dir": str(tmp_path / "run")})
        links = devices.links
        devices.end()
    assert "continues without" not in output
    counted = json.loads((tmp_path / "run" / "summary.json").read_text())["bytes"]
    up = counted["uplink_per_node"] * NODES
    expected = np.array([up, counted["total"] - up])
    start, port, counts = np.zeros(2), np.zeros(2), Counter[str]()
    for link in links:
        port += (link.up, link.down)
        for request in (request for conversation in link.conversations for request in requests(conversation)):
            counts[request.path] += 1
            if request.path in START:
                start += (request.up, request.down)
    messages = NODES * (1 + 2 * ROUNDS)  # the handshake, and two a round
    assert (counts["pull-messages"], counts["push-messages"]) == (messages, messages)
    # Message, RecordDict and one record; with predictions also an ArrayRecord, an Array and a chunk.
    with_predictions = NODES * (ROUNDS - 1)
    assert counts["pull-object"] == counts["push-object"] == 3 * messages + 3 * with_predictions
    print(f"at the port {port}, of which at the start {start}; in summary.json {expected}; {dict(counts)}")
    assert port == pytest.approx(expected + start + added(counts), rel=0.05)
    if large:
        assert port == pytest.approx(expected, rel=0.05)
    else:
        assert (port > 5 * expected).all()
