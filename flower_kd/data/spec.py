"""The specification of a data set and its split."""

from __future__ import annotations

from dataclasses import dataclass

from flower_kd.data.normalization import AUTO, CHOICES
from flower_kd.errors import InputError, unknown
from flower_kd.ranges import require_number


@dataclass(frozen=True)
class DataSpec:
    """Everything that determines the split into private sets, reference set and test set.

    Parameters
    ----------
    dataset : str
        "digits", a local folder, or a name on the hub.
    partition : str
        One of `partition_names()` or `module:attribute`, with settings in parentheses if it has any.
    num_partitions : int
        Number of nodes.
    seed : int
        Seed of all splits.
    gamma : float
        Skewness of partition "skew", not negative, unless the partition's parentheses have it.
    dirichlet_alpha : float
        Concentration of partition "dirichlet", above 0, unless the partition's parentheses have it.
    samples_per_node : int
        Maximum number of private samples per node, drawn from its partition; 0 for all.
    validation_share : float
        Share of a node's private samples that it holds out, from 0 to 0.5.
    reference_size : int
        Rows of the reference set.
    image_size : int
        Side in pixels to which images are resized; 0 to keep their size.
    normalization : {"auto", "imagenet"}
        Means and standard deviations of pixels: the data set's own, or those with which ImageNet weights were trained.

    Raises
    ------
    InputError
        If a number is out of range, or there is no such normalization.
    """

    dataset: str = "digits"
    partition: str = "iid"
    num_partitions: int = 2
    seed: int = 0
    gamma: float = 0.0
    dirichlet_alpha: float = 0.5
    samples_per_node: int = 0
    validation_share: float = 0.0
    reference_size: int = 0
    image_size: int = 0
    normalization: str = AUTO

    def __post_init__(self) -> None:
        if self.num_partitions < 1:
            raise InputError(f"num-partitions = {self.num_partitions} must be at least 1")
        for name in ("seed", "samples_per_node", "reference_size", "image_size"):
            value = getattr(self, name)
            if value < 0:
                raise InputError(f"{name.replace('_', '-')} = {value} must be at least 0")
        require_number("validation-share", self.validation_share, 0, 0.5)
        if self.normalization not in CHOICES:
            raise InputError(unknown("normalization", self.normalization, list(CHOICES)))
