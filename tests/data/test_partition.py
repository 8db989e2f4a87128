import pytest
from datasets import Dataset
from flwr_datasets.partitioner import Partitioner

from flower_kd.data import DataSpec, partition_names
from flower_kd.data.partition import PARTITIONS, partitioner_of, with_settings
from flower_kd.errors import InputError


def test_the_names() -> None:
    assert partition_names() == ["iid", "skew", "dirichlet", "pathological"]


@pytest.mark.parametrize("name", partition_names())
def test_each_entry_makes_a_partitioner_that_keeps_samples_apart(name: str) -> None:
    partitioner = partitioner_of(DataSpec(partition=name, num_partitions=3, gamma=2.0), 0)
    assert isinstance(partitioner, Partitioner)
    partitioner.dataset = Dataset.from_dict({"label": [0, 1, 2] * 40, "row": range(120)})
    rows = [row for vertex in range(3) for row in partitioner.load_partition(vertex)["row"]]
    assert partitioner.num_partitions == 3
    assert len(rows) == len(set(rows)) > 0


def test_the_options_of_each_partition() -> None:
    options = {name: list(PARTITIONS.settings(name)) for name in partition_names()}
    assert options == {
        "iid": [],
        "skew": ["gamma", "labels_per_node"],
        "dirichlet": ["dirichlet_alpha"],
        "pathological": ["labels_per_node"],
    }
    with pytest.raises(InputError, match="unknown partition 'niid'"):
        partitioner_of(DataSpec(partition="niid"), 0)


def test_parentheses_win_over_the_spec() -> None:
    assert with_settings(DataSpec(partition="skew", gamma=2.0)) == "skew(gamma=2.0)"
    assert with_settings(DataSpec(partition="skew(gamma=7)", gamma=2.0)) == "skew(gamma=7)"
    assert partitioner_of(DataSpec(partition="skew(gamma=7)", gamma=2.0), 0)._gamma == 7
    assert partitioner_of(DataSpec(partition="skew", gamma=2.0), 0)._gamma == 2


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_a_concentration_out_of_range(alpha: float) -> None:
    with pytest.raises(InputError, match=f"dirichlet_alpha = {alpha} must be .*above 0"):
        partitioner_of(DataSpec(partition="dirichlet", dirichlet_alpha=alpha), 0)
