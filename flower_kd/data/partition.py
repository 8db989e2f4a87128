"""Partitions by name: how private data are spread over nodes."""

from __future__ import annotations

import math
from collections.abc import Callable

from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    Partitioner,
    PathologicalPartitioner,
)

from flower_kd.data.skew_partitioner import SkewPartitioner
from flower_kd.data.spec import DataSpec
from flower_kd.errors import InputError
from flower_kd.registry import Registry

LABEL = "label"

# (spec, seed) -> partitioner over a data set with the column `label`
PARTITIONS: Registry[Callable[[DataSpec, int], Partitioner]] = Registry("partition")


def partition_names() -> list[str]:
    """Return the names of the partitions."""
    return PARTITIONS.names()


@PARTITIONS.register("iid")
def iid(spec: DataSpec, seed: int) -> Partitioner:
    """Spread samples evenly, whatever their label."""
    return IidPartitioner(spec.num_partitions)


@PARTITIONS.register("skew")
def skew(spec: DataSpec, seed: int) -> Partitioner:
    """Prefer each node's primary labels by `1 + gamma`."""
    return SkewPartitioner(spec.num_partitions, LABEL, spec.gamma, spec.labels_per_node, seed)


@PARTITIONS.register("dirichlet")
def dirichlet(spec: DataSpec, seed: int) -> Partitioner:
    """Draw each label's shares from a Dirichlet distribution."""
    if not (math.isfinite(spec.dirichlet_alpha) and spec.dirichlet_alpha > 0):
        raise InputError(f"dirichlet-alpha = {spec.dirichlet_alpha} must be above 0")
    return DirichletPartitioner(spec.num_partitions, LABEL, spec.dirichlet_alpha, min_partition_size=1, seed=seed)


@PARTITIONS.register("pathological")
def pathological(spec: DataSpec, seed: int) -> Partitioner:
    """Give each node samples of a few labels only (two unless `labels-per-node` says otherwise)."""
    return PathologicalPartitioner(spec.num_partitions, LABEL, spec.labels_per_node or 2, seed=seed)
