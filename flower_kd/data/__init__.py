"""Data sets, partitions, the reference set."""

from flower_kd.data.federated import FederatedData, fingerprint, load
from flower_kd.data.partition import PARTITIONS, partition_names
from flower_kd.data.skew_partitioner import SkewPartitioner
from flower_kd.data.spec import DataSpec

__all__ = [
    "PARTITIONS",
    "DataSpec",
    "FederatedData",
    "SkewPartitioner",
    "fingerprint",
    "load",
    "partition_names",
]
