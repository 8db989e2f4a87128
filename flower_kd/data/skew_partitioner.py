"""Label skew by primary labels."""

from __future__ import annotations

import math

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import Partitioner

from flower_kd.errors import InputError


class SkewPartitioner(Partitioner):
    """Partitioner that assigns samples more often to partitions for which their label is primary.

    Each partition has primary labels; the others are secondary. A sample goes to one partition at random, with a
    probability `1 + gamma` times higher for each partition that has the sample's label as a primary one. `gamma = 0`
    is independent and identical; Molo et al. (SISAP 2024) use 15 for CIFAR-10 and 10 for SUN397.
    Shuffled labels are dealt to partitions in turns, so that each label is primary for some partition, and all for
    about equally many.

    Implementation based on Decentralized Learning with Multi-Headed Distillation (Zhmoginov et al., CVPR 2023).

    Parameters
    ----------
    num_partitions : int
        Number of partitions, at least 1.
    partition_by : str
        Column of the labels.
    gamma : float
        Skewness, not negative.
    num_primary_labels : int
        Primary labels per partition; 0 for as many as needed to deal each label once, at least one.
    seed : int
        Seed of the dealing and of the assignment.

    Raises
    ------
    InputError
        If an argument is out of range, or does not fit the data set.

    Examples
    --------
    >>> from flwr_datasets import FederatedDataset
    >>> from flower_kd.data import SkewPartitioner
    >>>
    >>> partitioner = SkewPartitioner(num_partitions=8, partition_by="label", gamma=15.0, seed=0)
    >>> fds = FederatedDataset(dataset="ylecun/mnist", partitioners={"train": partitioner})  # doctest: +SKIP
    >>> partition = fds.load_partition(0)  # doctest: +SKIP
    """

    def __init__(
        self, num_partitions: int, partition_by: str, gamma: float, num_primary_labels: int = 0, seed: int = 42
    ) -> None:
        super().__init__()
        if num_partitions < 1:
            raise InputError(f"num_partitions = {num_partitions} must be at least 1")
        if not (math.isfinite(gamma) and gamma >= 0):
            raise InputError(f"gamma = {gamma} must be at least 0")
        if num_primary_labels < 0:
            raise InputError(f"num_primary_labels = {num_primary_labels} must be at least 0")
        self._num_partitions = num_partitions
        self._partition_by = partition_by
        self._gamma = gamma
        self._num_primary_labels = num_primary_labels
        self._seed = seed
        self._rows: list[np.ndarray] | None = None
        self._primary: list[list[object]] = []

    @property
    def num_partitions(self) -> int:
        """Total number of partitions."""
        return self._num_partitions

    @property
    def primary_labels(self) -> list[list[object]]:
        """Primary labels of each partition."""
        self._assign_if_needed()
        return self._primary

    def load_partition(self, partition_id: int) -> Dataset:
        """Load a partition.

        Parameters
        ----------
        partition_id : int
            From 0 to `num_partitions - 1`.

        Returns
        -------
        Dataset
            The partition's samples, in the order of the whole data set.
        """
        if not 0 <= partition_id < self._num_partitions:
            raise InputError(f"partition_id = {partition_id} is outside 0 to {self._num_partitions - 1}")
        return self.dataset.select(self._assign_if_needed()[partition_id])

    def _assign_if_needed(self) -> list[np.ndarray]:
        if self._rows is None:
            if self._partition_by not in self.dataset.column_names:
                found = ", ".join(self.dataset.column_names)
                raise InputError(
                    f"partition_by = {self._partition_by!r} is not a column of the data set (columns: {found})"
                )
            column = self.dataset.with_format("numpy")[self._partition_by][:]
            labels, codes = np.unique(column, return_inverse=True)
            rng = np.random.default_rng(self._seed)
            primary = self._deal(len(labels), rng)
            self._primary = [[labels[label].item() for label in np.flatnonzero(row)] for row in primary]
            weights = 1.0 + self._gamma * primary
            thresholds = np.cumsum(weights / weights.sum(axis=0), axis=0)  # [partitions, labels]
            thresholds[-1] = 1.0
            draws = rng.random(len(codes))
            owners = np.empty(len(codes), dtype=np.int64)
            # Label by label: an array [partitions, samples] would not fit in memory for thousands of nodes.
            for label in range(len(labels)):
                rows = codes == label
                owners[rows] = np.searchsorted(thresholds[:, label], draws[rows], side="right")
            ends = np.cumsum(np.bincount(owners, minlength=self._num_partitions))
            self._rows = np.split(np.argsort(owners, kind="stable"), ends[:-1])
        return self._rows

    def _deal(self, num_labels: int, rng: np.random.Generator) -> np.ndarray:
        """Return which labels are primary for which partition, bool [partitions, labels]."""
        if self._num_primary_labels > num_labels:
            raise InputError(
                f"num_primary_labels = {self._num_primary_labels} is above the number of labels, {num_labels}"
            )
        if self._num_primary_labels:
            hands = self._num_primary_labels * self._num_partitions
        else:
            hands = max(num_labels, self._num_partitions)
        order = rng.permutation(num_labels)
        primary = np.zeros((self._num_partitions, num_labels), dtype=bool)
        partitions = np.arange(hands) % self._num_partitions
        # Each full turn starts one label later, so that no partition is dealt the same label twice.
        turn = np.arange(hands) // math.lcm(self._num_partitions, num_labels)
        primary[partitions, order[(np.arange(hands) + turn) % num_labels]] = True
        return primary
