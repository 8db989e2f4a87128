"""Partitions by name: how private data are split over nodes.

Each imports its partitioner when it is called: with `datasets`, pandas and matplotlib that takes seconds, for which a
check of the run config should not wait.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from flower_kd.data.spec import DataSpec
from flower_kd.errors import InputError
from flower_kd.registry import Registry

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

LABEL = "label"

# (number of nodes, seed, *, the partition's own options) -> partitioner over a data set with the column `label`
PARTITIONS: Registry[Callable[..., Partitioner]] = Registry("partition")


def partition_names() -> list[str]:
    """Return the names of the partitions."""
    return PARTITIONS.names()


def partition_options(name: str) -> tuple[str, ...]:
    """Return the names of the options that a partition takes; raises InputError if the partition is unknown."""
    parameters = inspect.signature(PARTITIONS.get(name)).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def partitioner_of(spec: DataSpec, seed: int) -> Partitioner:
    """Return the partitioner of a spec, with the settings that the partition takes.

    Raises
    ------
    InputError
        If the partition is unknown, or an option is out of range.
    """
    options = {name: getattr(spec, name) for name in partition_options(spec.partition)}
    return PARTITIONS.get(spec.partition)(spec.num_partitions, seed, **options)


@PARTITIONS.register("iid")
def iid(num_partitions: int, seed: int) -> Partitioner:
    """Split samples evenly, regardless of their labels."""
    from flwr_datasets.partitioner import IidPartitioner

    return IidPartitioner(num_partitions)


@PARTITIONS.register("skew")
def skew(num_partitions: int, seed: int, *, gamma: float = 0.0, labels_per_node: int = 0) -> Partitioner:
    """Prefer each node's primary labels by `1 + gamma`."""
    from flower_kd.data.skew_partitioner import SkewPartitioner

    return SkewPartitioner(num_partitions, LABEL, gamma, labels_per_node, seed)


@PARTITIONS.register("dirichlet")
def dirichlet(num_partitions: int, seed: int, *, dirichlet_alpha: float = 0.5) -> Partitioner:
    """Draw each label's shares from a Dirichlet distribution."""
    if not (math.isfinite(dirichlet_alpha) and dirichlet_alpha > 0):
        raise InputError(f"dirichlet-alpha = {dirichlet_alpha} must be above 0 and finite")
    from flwr_datasets.partitioner import DirichletPartitioner

    return DirichletPartitioner(num_partitions, LABEL, dirichlet_alpha, min_partition_size=1, seed=seed)


@PARTITIONS.register("pathological")
def pathological(num_partitions: int, seed: int, *, labels_per_node: int = 0) -> Partitioner:
    """Give each node samples of a few labels only (two unless `labels-per-node` says otherwise)."""
    from flwr_datasets.partitioner import PathologicalPartitioner

    return PathologicalPartitioner(num_partitions, LABEL, labels_per_node or 2, seed=seed)
