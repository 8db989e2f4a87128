"""Where a limit lies: weights and shapes on both sides of it."""

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.protocol import Hello, exchanged_rows
from flower_kd.strategies import DDist
from flower_kd.strategies.d_dist import _probabilities
from flower_kd.strategies.weights import usable_weights


@pytest.mark.parametrize(
    ("common", "size", "usable"), [(0.1, 99.0, True), (0.1, 101.0, False), (5.0, 499.0, True), (5.0, 501.0, False)]
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_weights_may_be_a_hundred_times_as_large_as_is_common(common, size, usable: bool, sign: int) -> None:
    sizes = [common, common, common, sign * size]
    contents = {
        vertex: RecordDict({"arrays": wire.encode_weights({"w": torch.tensor([0.0, value])})})
        for vertex, value in enumerate(sizes)
    }
    weights, refused = usable_weights(contents)
    assert set(weights) == ({0, 1, 2, 3} if usable else {0, 1, 2})
    assert set(refused) == (set() if usable else {3})


def test_a_reply_without_weights_says_so() -> None:
    assert usable_weights({4: RecordDict()}) == ({}, {4: "its reply has no weights"})


@pytest.mark.parametrize("shape", [(1,) * 33, (-1,), (2**31,), (True,)])
def test_a_shape_that_no_array_has_is_refused(shape: tuple) -> None:
    array = Array("float32", (1,), "numpy.ndarray", wire.as_array(np.zeros(1, np.float32)).data)
    array.shape = shape
    with pytest.raises(InputError, match="it claims a shape of"):
        wire.check_layout(ArrayRecord({"rows": array}))


@pytest.mark.parametrize("dimensions", [0, 32])
def test_shapes_of_up_to_32_dimensions_are_read(dimensions: int) -> None:
    values = np.ones((1,) * dimensions, np.float32)
    assert wire.decode(ArrayRecord({"rows": wire.as_array(values)}), values.shape).shape == values.shape


def test_what_may_be_sent_may_be_received_as_uint8_too() -> None:
    for least in np.linspace(-65504, 65000, 200, dtype=np.float32):
        rows = np.array([[least, 65504.0]], np.float32)
        assert wire.decode(wire.encode(rows, "uint8"), (1, 2), "uint8").shape == (1, 2)


def test_decoded_rows_are_float32_of_their_own_memory() -> None:
    record = wire.encode(np.ones((2, 3), np.float32))
    wire.decode(record, (2, 3)).zero_()
    assert wire.decode(record, (2, 3)).sum() == 6


def test_rows_of_no_probability_are_uniform() -> None:
    rows = torch.tensor([[[-1.0, 0.0, -2.0, 0.0], [3.0, -1.0, 1.0, 0.0]]])
    assert _probabilities(rows).tolist() == [[[0.25] * 4, [0.5, 0.0, 0.5, 0.0]]]


def test_a_joint_step_is_taught_on_the_rows_of_the_next_exchange() -> None:
    strategy = DDist(
        nx.complete_graph(2), exchange_every=1, exchange_rows=3, dissimilarity="squared-error", temperature=1.0, seed=5
    )
    assert strategy.order.joint
    strategy.begin({vertex: Hello(vertex=vertex, classes=2, reference_rows=4) for vertex in range(2)})
    present = np.ones(2, dtype=bool)
    logits = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    everything = np.arange(4)
    strategy.teach(everything, logits, present)  # now all rows are known
    for exchange in range(3):
        strategy._exchange = exchange
        rows = exchanged_rows(5, exchange, 4, 3)
        teachers = strategy.teach(rows, logits[:, rows], present)
        following = exchanged_rows(5, exchange + 1, 4, 3)
        assert set(teachers) == {0, 1}
        assert torch.equal(teachers[1].soft_labels, strategy.consensus[1, following])
