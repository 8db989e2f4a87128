"""Nodes with different numbers of samples."""

from typing import Annotated

from annotated_types import Gt
from flwr_datasets.partitioner import Partitioner, SizePartitioner


def size_skew(num_partitions: int, seed: int, *, growth: Annotated[float, Gt(0)] = 1.2) -> Partitioner:
    """Give each node `growth` times as many samples as the one before it."""
    shares = [growth**vertex for vertex in range(num_partitions)]
    return SizePartitioner([int(600 * share / sum(shares)) for share in shares])
