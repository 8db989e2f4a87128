import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.pooling import mix
from flower_kd.strategies import DSGD, DDist
from flower_kd.strategies.clipping import clipped_matrix, clipped_mix

GRAPHS = ["ring", "star", "complete", "small-world"]
ROWS, WIDTH = 4, 3


def values(seed: int, nodes: int = 8) -> torch.Tensor:
    return torch.randn(nodes, ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))


def matrix_of(name: str, present: np.ndarray | None = None):
    mixing = topology.Mixing(topology.build(name, 8, seed=3))
    return mixing.matrix if present is None else mixing.among(present)


def by_hand(weights: np.ndarray, rows: torch.Tensor, radius: float) -> torch.Tensor:
    mixed = rows.clone()
    for n, m, row in np.ndindex(len(weights), len(weights), rows.shape[1]):
        difference = rows[m, row] - rows[n, row]
        length = difference.norm().item()
        mixed[n, row] += weights[n, m] * difference * (min(1, radius / length) if length > 0 else 1)
    return mixed


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from([*GRAPHS, "random-directed"]), seed=st.integers(0, 99), radius=st.floats(0.01, 5))
def test_each_difference_is_shortened_to_the_radius(name: str, seed: int, radius: float) -> None:
    weights, rows = matrix_of(name), values(seed)
    assert torch.allclose(clipped_mix(weights, rows, radius), by_hand(weights.toarray(), rows, radius), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from([*GRAPHS, "random-directed"]), seed=st.integers(0, 99))
def test_a_radius_that_nothing_exceeds_is_plain_mixing(name: str, seed: int) -> None:
    weights, rows = matrix_of(name), values(seed)
    assert torch.allclose(clipped_mix(weights, rows, 1e3), mix(weights, rows), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(GRAPHS), seed=st.integers(0, 99), radius=st.floats(0.01, 2))
def test_symmetric_weights_keep_the_mean(name: str, seed: int, radius: float) -> None:
    rows = values(seed)
    mixed = clipped_mix(matrix_of(name), rows, radius)
    assert torch.allclose(mixed.mean(0), rows.mean(0), atol=1e-5)
    assert not torch.allclose(mixed, rows, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(GRAPHS), seed=st.integers(0, 99), lie=st.floats(-1e6, 1e6), liar=st.integers(0, 7))
def test_a_liar_moves_a_neighbor_by_its_share_of_the_radius_at_most(name, seed, lie, liar) -> None:
    weights, radius = matrix_of(name), 0.5
    silent = matrix_of(name, np.arange(8) != liar)
    rows = values(seed)
    rows[liar] = lie
    moved = (clipped_mix(weights, rows, radius) - clipped_mix(silent, rows, radius)).norm(dim=-1)
    for vertex in set(range(8)) - {liar}:
        assert (moved[vertex] <= weights[vertex, liar] * radius + 1e-4).all()


def test_many_edges_are_mixed_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, rows = matrix_of("complete"), values(0)
    whole = clipped_mix(weights, rows, 0.7)
    monkeypatch.setattr("flower_kd.strategies.clipping._PART", 50)
    assert torch.allclose(clipped_mix(weights, rows, 0.7), whole, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from([*GRAPHS, "random-directed"]), seed=st.integers(0, 99), radius=st.floats(0.01, 9))
def test_the_clipped_matrix_mixes_whole_vectors_as_clipped_rows(name: str, seed: int, radius: float) -> None:
    weights, rows = matrix_of(name), values(seed)
    vectors = {node: [array.numpy() for array in rows[node].split(1)] for node in range(8)}
    clipped = clipped_matrix(weights, vectors, radius)
    assert np.allclose(clipped.sum(axis=1), 1)
    as_one_row = clipped_mix(weights, rows.reshape(8, 1, -1), radius).reshape(rows.shape)
    assert torch.allclose(mix(clipped, rows), as_one_row, atol=1e-5)


def test_equal_vectors_keep_their_weights() -> None:
    weights = matrix_of("ring")
    vectors = {node: [np.ones(3, dtype=np.float32)] for node in range(8)}
    assert np.allclose(clipped_matrix(weights, vectors, 0.1).toarray(), weights.toarray())


def test_absent_nodes_need_no_vector() -> None:
    present = np.arange(8) != 2
    weights = matrix_of("ring", present)
    vectors = {int(node): [np.full(3, float(node))] for node in np.flatnonzero(present)}
    clipped = clipped_matrix(weights, vectors, 0.1).toarray()
    assert clipped[2, 2] == 1
    assert clipped[1, 0] == pytest.approx(weights[1, 0] * 0.1 / np.sqrt(3))


@pytest.mark.parametrize("strategy", [DSGD, DDist])
@pytest.mark.parametrize("clip", [-0.1, float("nan"), float("inf")])
def test_the_radius_is_checked(strategy: type, clip: float) -> None:
    with pytest.raises(InputError, match=r"clip = .* must be (finite and )?at least 0"):
        strategy(nx.cycle_graph(4), clip=clip)


def test_tracking_cannot_be_clipped() -> None:
    with pytest.raises(InputError, match=r"clip = 0.1 protects no node under consensus = 'tracking': use 'gradient'"):
        DDist(nx.cycle_graph(4), clip=0.1, consensus="tracking")
