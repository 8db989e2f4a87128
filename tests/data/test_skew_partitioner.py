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
    labels = np.repeat(np.arange(10), 2000)
    partitioner, parts = partitioned(labels, num_partitions=num_partitions, gamma=gamma, seed=1)
    counts = np.array([np.bincount(labels[part], minlength=10) for part in parts])
    primary = np.zeros_like(counts, dtype=bool)
    for partition, own in enumerate(partitioner.primary_labels):
        primary[partition, own] = True
    # Each label has one primary partition here, so labels can be counted together: some thousands of samples a side.
    assert (primary.sum(axis=0) == 1).all()
    assert counts[primary].mean() / counts[~primary].mean() == pytest.approx(1 + gamma, rel=0.08)


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
        ({"num_partitions": 2, "gamma": 1.0, "num_primary_labels": -1}, "num_primary_labels = -1"),
        ({"num_partitions": 2, "gamma": 1.0, "num_primary_labels": 11}, "above the number of labels, 10"),
    ],
)
def test_mistakes(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        partitioned(np.arange(10), **arguments)


@settings(max_examples=30, deadline=None)
@given(num_partitions=st.integers(1, 30), num_labels=st.integers(1, 30), data=st.data())
def test_dealing_is_fair(num_partitions: int, num_labels: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, num_labels))
    labels = np.arange(num_labels)
    partitioner, _ = partitioned(labels, num_partitions=num_partitions, gamma=1.0, num_primary_labels=count)
    hands = partitioner.primary_labels
    assert all(len(hand) == count or (count == 0 and len(hand) >= 1) for hand in hands)
    times = np.bincount(np.concatenate(hands), minlength=num_labels)
    if count * num_partitions >= num_labels or count == 0:
        assert times.min() >= 1
    assert times.max() - times.min() <= 1


def test_primary_labels_may_be_words() -> None:
    partitioner, parts = partitioned(np.array(["cat", "dog"] * 20), num_partitions=2, gamma=1e9)
    assert sorted(partitioner.primary_labels) == [["cat"], ["dog"]]
    assert sorted(map(len, parts)) == [20, 20]


@pytest.mark.parametrize("partition_id", [-1, 2])
def test_a_partition_that_is_not_there(partition_id: int) -> None:
    partitioner, _ = partitioned(np.arange(10), num_partitions=2, gamma=1.0)
    with pytest.raises(InputError, match=f"partition_id = {partition_id} is outside 0 to 1"):
        partitioner.load_partition(partition_id)


def test_a_column_that_is_not_there() -> None:
    partitioner = SkewPartitioner(num_partitions=2, partition_by="digit", gamma=1.0)
    partitioner.dataset = Dataset.from_dict({"label": [0, 1]})
    with pytest.raises(InputError, match=r"partition_by = 'digit' is not a column of the data set \(columns: label\)"):
        partitioner.load_partition(0)
