"""How the predictions of a node's neighbors are pooled into its teacher."""

from flower_kd.pooling import (
    means,
    nearness,
    robust,
    sharpened,
    votes,
    weighted,
)  # registered in this order
from flower_kd.pooling.checks import TRIED_ROWS, check, pool
from flower_kd.pooling.registry import POOLINGS, Pooling, get, names, takes_class_counts
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
    "nearness",
    "pool",
    "robust",
    "sharpened",
    "takes_class_counts",
    "votes",
    "weighted",
]
