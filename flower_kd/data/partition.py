"""Partitions by name: how private data are split over nodes.

Each imports its partitioner when it is called: with `datasets`, pandas and matplotlib that takes seconds, for which a
check of the run config should not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flower_kd.data.spec import DataSpec
from flower_kd.errors import InputError, of_type
from flower_kd.parts.registry import Registry
from flower_kd.ranges import Count, NonNegative, Positive, Whole

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

LABEL = "label"

# (number of nodes, seed, *, the partition's own settings) -> partitioner over a data set with the column `label`
PARTITIONS: Registry[Callable[..., Partitioner]] = Registry(
    "partition", group="flower_kd.partitions", given=("num_partitions", "seed")
)


def partition_names() -> list[str]:
    """Return the names of the partitions."""
    return PARTITIONS.names()


def with_settings(spec: DataSpec) -> str:
    """Return the partition of a spec with the values of the spec that it takes, such as "skew(gamma=15.0)"."""
    return PARTITIONS.filled(spec.partition, {"gamma": spec.gamma, "dirichlet_alpha": spec.dirichlet_alpha})


def partitioner_of(spec: DataSpec, seed: int) -> Partitioner:
    """Return the partitioner of a spec, with the settings that the partition takes.

    Raises
    ------
    InputError
        If the partition is unknown or fails, or a setting is unknown or out of range.
    """
    from flwr_datasets.partitioner import Partitioner

    found = PARTITIONS.call(spec.partition, PARTITIONS.bind(with_settings(spec)), spec.num_partitions, seed)
    if not isinstance(found, Partitioner):
        raise InputError(f"partition {spec.partition!r} returns {of_type(found)}, not a Partitioner")
    return found


@PARTITIONS.register("iid")
def iid(num_partitions: int, seed: int) -> Partitioner:
    """Split samples evenly, regardless of their labels."""
    from flwr_datasets.partitioner import IidPartitioner

    return IidPartitioner(num_partitions)


@PARTITIONS.register("skew")
def skew(num_partitions: int, seed: int, *, gamma: NonNegative = 0.0, labels_per_node: Whole = 0) -> Partitioner:
    """Prefer each node's primary labels by `1 + gamma`; by default, each label is primary for about equally many."""
    from flower_kd.data.skew_partitioner import SkewPartitioner

    return SkewPartitioner(num_partitions, LABEL, gamma, labels_per_node, seed)


@PARTITIONS.register("dirichlet")
def dirichlet(num_partitions: int, seed: int, *, dirichlet_alpha: Positive = 0.5) -> Partitioner:
    """Draw each label's shares from a Dirichlet distribution."""
    from flwr_datasets.partitioner import DirichletPartitioner

    return DirichletPartitioner(num_partitions, LABEL, dirichlet_alpha, min_partition_size=1, seed=seed)


@PARTITIONS.register("pathological")
def pathological(num_partitions: int, seed: int, *, labels_per_node: Count = 2) -> Partitioner:
    """Give each node samples of a few labels only."""
    from flwr_datasets.partitioner import PathologicalPartitioner

    return PathologicalPartitioner(num_partitions, LABEL, labels_per_node, seed=seed)
