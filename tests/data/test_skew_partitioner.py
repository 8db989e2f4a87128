import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import Partitioner
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_kd.data import SkewPartitioner
from flower_kd.errors import InputError


def partitioned(labels: np.ndarray, **arguments) -> tuple[SkewPartitioner, list[list[int]]]:
    partitioner = SkewPartitioner(partition_by="label", **arguments)
    partitioner.dataset = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})
    return partitioner, [partitioner.load_partition(k)["row"][:] for k in range(partitioner.num_partitions)]


@settings(max_examples=30, deadline=None)
@given(
    num_partitions=st.integers(1, 12),
    num_labels=st.integers(1, 12),
    gamma=st.floats(0, 100),
    seed=st.integers(0, 1000),
)
def test_each_sample_is_in_one_partition(num_partitions: int, num_labels: int, gamma: float, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, num_labels, 100)
    _, parts = partitioned(labels, num_partitions=num_partitions, gamma=gamma, seed=seed)
    assert sorted(row for part in parts for row in part) == list(range(100))


@pytest.mark.parametrize("gamma", [0.0, 3.0, 15.0])
@pytest.mark.parametrize("num_partitions", [3, 8, 10])
def test_primary_labels_are_one_plus_gamma_times_as_likely(gamma: float, num_partitions: int) -> None:
    labels = np.repeat(np.arange(10), 8000)
    partitioner, parts = partitioned(labels, num_partitions=num_partitions, gamma=gamma, seed=1)
    counts = np.array([np.bincount(labels[part], minlength=10) for part in parts])
    primary = np.zeros_like(counts, dtype=bool)
    for partition, own in enumerate(partitioner.primary_labels):
        primary[partition, own] = True
    assert primary.any(axis=0).all()  # each label is primary somewhere
    for label in range(10):
        own, other = counts[primary[:, label], label].mean(), counts[~primary[:, label], label].mean()
        assert own / other == pytest.approx(1 + gamma, rel=0.2)


@pytest.mark.parametrize(("num_partitions", "wanted"), [(3, {3, 4}), (10, {1}), (25, {1}), (1, {10})])
def test_labels_are_dealt_evenly(num_partitions: int, wanted: set[int]) -> None:
    partitioner, _ = partitioned(np.repeat(np.arange(10), 20), num_partitions=num_partitions, gamma=5.0)
    assert {len(own) for own in partitioner.primary_labels} == wanted


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_a_number_of_primary_labels_can_be_asked_for(count: int) -> None:
    partitioner, _ = partitioned(np.repeat(np.arange(10), 20), num_partitions=10, gamma=5.0, num_primary_labels=count)
    assert [len(own) for own in partitioner.primary_labels] == [count] * 10


def test_it_is_a_partitioner_of_flower_datasets_and_follows_its_seed() -> None:
    labels = np.arange(200) % 10
    assert issubclass(SkewPartitioner, Partitioner)
    first, again, other = (partitioned(labels, num_partitions=4, gamma=15.0, seed=seed)[1] for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_partitions": 0, "gamma": 1.0}, "num_partitions = 0"),
        ({"num_partitions": 2, "gamma": -0.5}, "gamma = -0.5 must be at least 0"),
        ({"num_partitions": 2, "gamma": float("nan")}, "gamma = nan"),
        ({"num_partitions": 2, "gamma": 1.0, "num_primary_labels": 11}, "above the number of labels, 10"),
    ],
)
def test_mistakes(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        partitioned(np.arange(10), **arguments)
