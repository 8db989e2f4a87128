"""How the predictions of a node's neighbors are pooled into its teacher."""

# Registers the poolings, in this order.
from flower_kd.pooling import means, robust, sharpened, votes, weighted, weighted_by_nearness
from flower_kd.pooling.checks import TRIED_ROWS, check, pool
from flower_kd.pooling.registry import POOLINGS, Pooling, get, names, takes_class_counts, takes_present
from flower_kd.pooling.robust import GeometricMedian, Median, RobustPooling, TrimmedMean
from flower_kd.pooling.rows import mix
from flower_kd.teacher import Teacher

__all__ = [
    "POOLINGS",
    "TRIED_ROWS",
    "GeometricMedian",
    "Median",
    "Pooling",
    "RobustPooling",
    "Teacher",
    "TrimmedMean",
    "check",
    "get",
    "means",
    "mix",
    "names",
    "pool",
    "robust",
    "sharpened",
    "takes_class_counts",
    "takes_present",
    "votes",
    "weighted",
    "weighted_by_nearness",
]
