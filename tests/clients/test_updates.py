"""Compressed updates on a node: error feedback, estimates of CHOCO-SGD, and a memory that survives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_same_model_node
from flwr.app import Array, ArrayRecord, Context, RecordDict

from flower_kd import wire
from flower_kd.clients import Node, state, updates
from flower_kd.clients.node_files import NodeFiles
from flower_kd.protocol import ARRAYS, UPDATE, Order
from flower_kd.wire import compression, digest


def node_of(**values: list[float]) -> Node:
    node = build_same_model_node(Context(1, 5, {"partition-id": 0}, RecordDict(), {}))
    node.model = torch.nn.BatchNorm1d(2)  # parameters, float buffers and a counter
    set_weights(node, **values)
    return node


def set_weights(node: Node, **values: list[float]) -> None:
    node.model.load_state_dict(node.model.state_dict() | {name: torch.tensor(row) for name, row in values.items()})


def weights(node: Node) -> wire.Arrays:
    return {name: value.numpy().copy() for name, value in node.model.state_dict().items()}


def record(values: wire.Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in values.items()})


def order(base: wire.Arrays, *, moving: bool, name: str = "top-k(share=0.25)") -> Order:
    return Order(1, 1, compression=name, base=digest(base), moving_base=moving)


def sent(node: Node, order: Order, base: wire.Arrays) -> wire.Arrays:
    """Return what the receiver makes of the node's reply."""
    name, arrays = updates.reply(node, order, updates.base_of(node, order) if base is None else base)
    assert name == UPDATE
    return compression.get(order.compression).decompress(arrays, base)


def test_error_feedback_sends_later_what_it_left_out() -> None:
    """By hand: e += delta; send C(e); e -= C(e), with C the largest of four values."""
    node = node_of(weight=[0.0, 0.0], bias=[0.0, 0.0])
    base = weights(node)
    asked = order(base, moving=False)
    assert digest(updates.base_of(node, asked)) == digest(base)
    set_weights(node, weight=[4.0, -3.0], bias=[1.0, 0.0])
    first = sent(node, asked, base)
    assert (first["weight"].tolist(), first["bias"].tolist()) == ([4.0, 0.0], [0.0, 0.0])
    # The average of all nodes is the next base, and nothing is added to it.
    updates.load(node, record(base | {"weight": np.array([2.0, 0.0], np.float32)}))
    base = weights(node)
    assert base["weight"].tolist() == [2.0, 0.0]
    set_weights(node, weight=[2.0, 1.0])  # a delta of 1, and -3 that were left out
    second = sent(node, order(base, moving=False), base)
    assert (second["weight"].tolist(), second["bias"].tolist()) == ([2.0, -2.0], [0.0, 0.0])
    third = sent(node, order(base, moving=False), base)  # delta of 1 again: residual 0, and 1 in the bias
    assert sorted(np.abs(np.concatenate([third["weight"] - base["weight"], third["bias"]]))) == [0, 0, 0, 1]


def test_an_estimate_moves_by_what_is_sent_and_the_rest_stays_in_the_weights() -> None:
    node = node_of(weight=[0.0, 0.0], bias=[0.0, 0.0])
    base = weights(node)
    asked = order(base, moving=True)
    start = updates.base_of(node, asked)
    set_weights(node, weight=[4.0, -3.0], bias=[1.0, 0.0])
    estimate = sent(node, asked, start)
    assert estimate["weight"].tolist() == [4.0, 0.0]
    mixed = estimate | {"weight": np.array([2.0, 0.5], np.float32)}  # the estimate, mixed with neighbors'
    for _ in range(2):  # however often
        updates.load(node, record(mixed))
        assert node.model.weight.tolist() == [2.0, -2.5]
        assert node.model.bias.tolist() == [1.0, 0.0]
    # The next difference is that from the estimate.
    again = order(estimate, moving=True)
    known = updates.base_of(node, again)
    assert digest(known) == digest(estimate)
    following = sent(node, again, known)
    assert following["weight"].tolist() == [4.0, -2.5]


def test_a_node_with_another_base_sends_all_of_its_weights() -> None:
    node = node_of(weight=[0.0, 0.0], bias=[0.0, 0.0])
    for moving in (True, False):
        asked = order({"weight": np.ones(2, np.float32)}, moving=moving)
        assert updates.base_of(node, asked) is None
        set_weights(node, weight=[4.0, -3.0])
        name, arrays = updates.reply(node, asked, None)
        assert name == ARRAYS
        assert np.array_equal(arrays["weight"].numpy(), [4.0, -3.0])
        known = weights(node)
        set_weights(node, weight=[5.0, 5.0])
        # They are its estimate from now on; with error feedback, the base is always what it has at the start.
        assert (updates.base_of(node, order(known, moving=moving)) is not None) == moving
        assert updates.base_of(node, Order(1, 1, compression="uint8", moving_base=moving)) is None  # nobody has a base


def test_statistics_and_counters_are_not_compressed() -> None:
    node = node_of()
    base = weights(node)
    set_weights(node, running_mean=[0.25, 1e-9], num_batches_tracked=7)
    estimate = sent(node, order(base, moving=True), base)
    assert estimate["running_mean"].tolist() == node.model.running_mean.tolist()
    assert estimate["num_batches_tracked"] == 7
    assert digest(estimate) == digest(updates.base_of(node, order(estimate, moving=True)))


def test_scalar_parameters_are_arrays_too(tmp_path: Path) -> None:
    node = node_of()
    node.model = torch.nn.Module()
    node.model.register_parameter("scale", torch.nn.Parameter(torch.tensor(0.5)))
    base = weights(node)
    with torch.no_grad():
        node.model.scale.fill_(1.5)
    estimate = sent(node, order(base, moving=True), base)
    assert estimate["scale"].shape == ()
    assert all(isinstance(array, np.ndarray) for array in node.memory.values())
    assert state.to_tensors(node)["memory.base.scale"].shape == ()


def test_without_compression_the_reply_is_as_ever() -> None:
    node = node_of(weight=[1.0, 2.0])
    assert updates.base_of(node, Order(1, 1)) is None
    name, arrays = updates.reply(node, Order(1, 1), None)
    assert name == ARRAYS
    assert arrays == wire.encode_weights(node.model.state_dict())
    assert node.memory == {}


# -- the memory --------------------------------------------------------------------------------------------------------


def remembering(context: Context) -> Node:
    node = state.load(context, lambda _: node_of())
    base = weights(node)
    set_weights(node, weight=[4.0, -3.0])
    updates.reply(node, order(base, moving=True), base)
    return node


def same(one: wire.Arrays, other: wire.Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("records", [RecordDict, state.LiveState])
def test_a_context_keeps_the_memory_until_it_begins_anew(records: type[RecordDict]) -> None:
    context = Context(1, 5, {"partition-id": 0}, records(), {})
    node = remembering(context)
    assert node.memory
    state.save(context, node)
    assert same(state.load(context, lambda _: node_of()).memory, node.memory)
    assert (state.MEMORY in state.to_records(context)) is True
    assert state.fresh(context, lambda _: node_of()).memory == {}
    assert state.load(context, lambda _: node_of()).memory == {}


def test_files_keep_the_memory(tmp_path: Path) -> None:
    node, files = remembering(Context(1, 5, {"partition-id": 0}, RecordDict(), {})), NodeFiles(tmp_path)
    files.save(node, 3)
    restored = node_of()
    assert files.load(restored, 3) == 3
    assert same(restored.memory, node.memory)
    files.save(node_of(), 4)
    assert files.load(restored, 4) == 4
    assert restored.memory == {}


def test_a_live_node_that_fails_has_the_memory_from_before() -> None:
    context = Context(1, 5, {"partition-id": 0}, state.LiveState(), {})
    node = remembering(context)
    before = dict(node.memory)
    with pytest.raises(ZeroDivisionError), state.restored_on_error(context, node):  # noqa: PT012
        updates.reply(node, order(weights(node), moving=True), weights(node))
        assert not same(node.memory, before)
        raise ZeroDivisionError
    assert same(node.memory, before)
