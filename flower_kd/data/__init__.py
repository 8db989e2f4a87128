"""Data sets, partitions, the reference set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flower_kd.data.digest import fingerprint
from flower_kd.data.node_data import NodeData, kept_in, of_node
from flower_kd.data.spec import DataSpec

if TYPE_CHECKING:
    from flower_kd.data.federated import FederatedData, load
    from flower_kd.data.own import OwnData
    from flower_kd.data.partition import PARTITIONS, partition_names
    from flower_kd.data.skew_partitioner import SkewPartitioner

__all__ = [
    "PARTITIONS",
    "DataSpec",
    "FederatedData",
    "NodeData",
    "OwnData",
    "SkewPartitioner",
    "fingerprint",
    "kept_in",
    "load",
    "of_node",
    "partition_names",
]

_MODULE_OF = {
    "FederatedData": "federated",
    "load": "federated",
    "OwnData": "own",
    "PARTITIONS": "partition",
    "partition_names": "partition",
    "SkewPartitioner": "skew_partitioner",
}


def __getattr__(name: str) -> Any:
    """Import a name on first access: a node with data of its own needs neither `datasets` nor `flwr_datasets`."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"flower_kd.data.{_MODULE_OF[name]}"), name)
