"""What a node remembers between messages, and that its users do not disturb each other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REFERENCE_ROWS, build_blob_node
from flwr.app import Context, RecordDict

from flower_kd import wire
from flower_kd.clients import Node, predictions, state
from flower_kd.clients.memory import remember, remembered
from flower_kd.clients.node_files import NodeFiles
from flower_kd.protocol import LOGITS, Order

ORDER = Order(1, 1, wire="labels", wire_coding="delta", reply="logits")
ROWS = np.arange(REFERENCE_ROWS)


def context_of(records: type[RecordDict] = RecordDict) -> Context:
    return Context(1, 5, {"partition-id": 0, "num-partitions": 2}, records(), {})


def logits(seed: int) -> torch.Tensor:
    return torch.randn(REFERENCE_ROWS, 3, generator=torch.Generator().manual_seed(seed))


def sent(node: Node, base: int, seed: int) -> bytes:
    """Return the bytes of a node's rows for a server that has rows of this digest."""
    name, record = predictions.reply(node, Order(**vars(ORDER) | {"base": base}), None, logits(seed), lambda rows: rows)
    assert name == LOGITS
    return record["rows"].data


def digest_of_sent(node: Node) -> int:
    last = wire.LastRows(wire.get("labels", "delta"), REFERENCE_ROWS, 3)
    last.restore(**remembered(node, predictions.SENT))
    return last.digest(ROWS)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_each_kind_is_replaced_alone() -> None:
    node = build_blob_node(context_of())
    remember(node, "base", {"0.weight": np.ones(2), "base.x": np.zeros(1)})
    remember(node, "based", {"0.weight": np.full(2, 3.0)})
    kept = node.memory
    remember(node, "base", {"1.weight": np.full(2, 2.0)})
    assert same(remembered(node, "base"), {"1.weight": np.full(2, 2.0)})
    assert same(remembered(node, "based"), {"0.weight": np.full(2, 3.0)})
    assert remembered(node, "bas") == {}
    assert set(kept) == {"base.0.weight", "base.base.x", "based.0.weight"}  # to be put back after an error
    remember(node, "base", {})
    assert list(node.memory) == ["based.0.weight"]


@pytest.mark.parametrize("records", [RecordDict, state.LiveState])
def test_the_last_rows_are_kept_with_the_node(records: type[RecordDict]) -> None:
    context = context_of(records)
    node = state.fresh(context, build_blob_node)
    remember(node, "base", {"0.weight": np.ones(2)})
    full = sent(node, 0, seed=0)
    state.save(context, node)
    again = state.load(context, build_blob_node)
    assert same(remembered(again, "base"), {"0.weight": np.ones(2)})
    assert len(sent(again, digest_of_sent(again), seed=0)) < len(full)  # nothing changed
    assert remembered(state.fresh(context, build_blob_node), predictions.SENT) == {}


def test_the_last_rows_are_kept_with_the_round(tmp_path: Path) -> None:
    files, node = NodeFiles(tmp_path), build_blob_node(context_of())
    digests = []
    for server_round in (1, 2):
        sent(node, 0, seed=server_round)
        files.save(node, server_round)
        digests.append(digest_of_sent(node))
    restored = build_blob_node(context_of())
    assert files.load(restored, 1) == 1
    assert digest_of_sent(restored) == digests[0] != digests[1]


def test_after_an_error_the_last_rows_are_those_of_the_message_before() -> None:
    context = context_of(state.LiveState)
    node = state.fresh(context, build_blob_node)
    sent(node, 0, seed=0)
    before = digest_of_sent(node)
    with pytest.raises(ZeroDivisionError), state.restored_on_error(context, node):  # noqa: PT012
        sent(node, before, seed=1)
        assert digest_of_sent(node) != before
        raise ZeroDivisionError
    assert digest_of_sent(node) == before
