"""Checks of parts of your own: each raises AssertionError with the property that a part lacks.

They take what a run config takes, such as "my_parts:Renyi(order=0.5)", or the part itself with its default settings.
"""

from flower_kd.testing.augmentations import check_augmentation
from flower_kd.testing.codecs import check_codec
from flower_kd.testing.compressions import check_compression
from flower_kd.testing.consensus import check_consensus
from flower_kd.testing.dissimilarities import check_dissimilarity
from flower_kd.testing.models import check_model
from flower_kd.testing.partitions import check_partition
from flower_kd.testing.poolings import check_pooling
from flower_kd.testing.schedules import check_schedule
from flower_kd.testing.strategies import check_strategy
from flower_kd.testing.topologies import check_topology

__all__ = [
    "check_augmentation",
    "check_codec",
    "check_compression",
    "check_consensus",
    "check_dissimilarity",
    "check_model",
    "check_partition",
    "check_pooling",
    "check_schedule",
    "check_strategy",
    "check_topology",
]
