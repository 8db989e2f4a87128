"""The server's checkpoint, written and read."""

from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.protocol import Hello
from flower_kd.runs import checkpoint
from flower_kd.strategies import DSGD


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path) is None
    arrays = {"a/b": np.arange(6.0).reshape(2, 3).T, "flags": np.array([True, False])}
    written = checkpoint.Checkpoint("id", "d-sgd", 3, {"alone": 1.5}, {"alone": 7}, [{"vertex": 0}], arrays, {})
    written = replace(written, network={"up": np.array([2**40, 1])})
    (tmp_path / checkpoint.SERVER_FILE).write_bytes(written.to_bytes())
    found = checkpoint.read(tmp_path)
    assert found is not None
    for name in ("identity", "stage", "server_round", "seconds", "history_bytes", "nodes"):
        assert getattr(found, name) == getattr(written, name)
    for own, other in ((found.strategy, written.strategy), (found.network, written.network)):
        assert own.keys() == other.keys()
        for name, array in own.items():
            assert array.dtype == other[name].dtype
            assert np.array_equal(array, other[name])
            array[:] = 0  # one that can be written to


@pytest.mark.parametrize("kept", [0, 20, -1])
def test_a_torn_checkpoint_is_named(kept: int, tmp_path: Path) -> None:
    content = checkpoint.Checkpoint("id", "silo", 1, {}, {}, [], {"a": np.ones(4)}).to_bytes()
    (tmp_path / checkpoint.SERVER_FILE).write_bytes(content[:kept])
    with pytest.raises(InputError, match=r"checkpoint '.*server.safetensors' is damaged"):
        checkpoint.read(tmp_path)


def mixed_by(clip: float) -> DSGD:
    """Return D-SGD on a path of three after an exchange in which vertex 2 sent nothing."""
    strategy = DSGD(nx.path_graph(3), clip=clip)
    strategy.begin({vertex: Hello(vertex=vertex) for vertex in range(3)})
    weights = {0: {"w": torch.zeros(2), "n": torch.tensor(3)}, 1: {"w": torch.full((2,), 6.0), "n": torch.tensor(5)}}
    replies = [(v, RecordDict({"arrays": wire.encode_weights(own)})) for v, own in weights.items()]
    refused = strategy.absorb([*replies, (2, RecordDict({"arrays": ArrayRecord()}))])
    assert set(refused) == {2}
    return strategy


def test_mixed_weights_survive_a_checkpoint_and_are_sent_to_those_who_may_lack_them() -> None:
    strategy, other = mixed_by(0.0), DSGD(nx.path_graph(3))
    share = strategy.mixing.among(np.array([True, True, False])).toarray()[0, 1]
    assert share > 0
    other.load_state_dict(strategy.state_dict())
    for vertex, expected in ((0, 6.0 * share), (1, 6.0 - 6.0 * share)):
        for own in (strategy, other):
            record = own.payload(vertex)["arrays"]
            assert np.allclose(record["w"].numpy(), expected)
            assert record["n"].numpy() == 3 + 2 * vertex  # a counter stays the node's own
    assert strategy.payload(2) == other.payload(2) == {}


def test_clipped_mixing_moves_by_the_share_of_the_radius() -> None:
    strategy = mixed_by(1.0)
    share = strategy.mixing.among(np.array([True, True, False])).toarray()[0, 1]
    moved = [strategy.payload(vertex)["arrays"]["w"].numpy() for vertex in (0, 1)]
    assert np.allclose(moved[0], share / np.sqrt(2))  # the radius is of the whole vector, its counter left out
    assert np.allclose(moved[1], 6.0 - share / np.sqrt(2))
