"""Private sets, validation sets, the reference set and the test set: disjoint, and determined by the seed."""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from flower_kd.data.normalization import Normalization, known_normalization, normalization
from flower_kd.data.partition import LABEL, partitioner_of, with_settings
from flower_kd.data.sources import Source, Split, load_source
from flower_kd.data.spec import DataSpec
from flower_kd.errors import InputError
from flower_kd.failures import describe
from flower_kd.seeding import derive

Samples = tuple[Tensor, Tensor]


class FederatedData:
    """A data set as the nodes of a network see it; images are decoded lazily, once per process.

    Parameters
    ----------
    spec : DataSpec
        What to load and how to split it.

    Raises
    ------
    InputError
        If the data set cannot be read, or cannot be split: the reference set or the network is too large, the
        partition is unknown, or its settings leave a node without samples.
    """

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self._source: Source = load_source(spec.dataset, spec.image_size, spec.seed)
        self.label_names = self._source.label_names
        self.num_classes = len(self.label_names)
        samples = len(self._source.train.labels)
        if spec.reference_size + spec.num_partitions > samples:
            raise InputError(
                f"dataset {spec.dataset!r} has {samples} training samples, too few for reference-size = "
                f"{spec.reference_size} and {spec.num_partitions} nodes with at least one sample each"
            )
        order = np.random.default_rng(derive(spec.seed, "reference set")).permutation(samples)
        self._reference_rows, self._private_rows = order[: spec.reference_size], order[spec.reference_size :]
        self._partition = self._partitioned()
        self._private: dict[int, Samples] = {}
        self._validation: dict[int, Samples] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self._unnormalized_reference.shape[1:]
        return channels, height, width

    @cached_property
    def reference(self) -> Tensor:
        """Inputs of the reference set, [rows, channels, height, width]; its labels are not used."""
        return self.normalization(self._unnormalized_reference)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the decoded reference set and of the settings that turn it into inputs.

        Not of the inputs: their last bits depend on the CPU that resized and normalized them.
        """
        return self._read_reference[1]

    @cached_property
    def test(self) -> Samples:
        """Inputs and labels of the test set."""
        return self._samples(self._source.test, np.arange(len(self._source.test.labels)))

    def private(self, vertex: int) -> Samples:
        """Return inputs [samples, channels, height, width] and labels [samples] that one node trains on.

        Raises
        ------
        InputError
            If there is no such node, it has too few samples for a validation set, or an image cannot be decoded.
        """
        if vertex not in self._private:
            self._private[vertex] = self._samples(self._source.train, self.private_rows(vertex))
        return self._private[vertex]

    def validation(self, vertex: int) -> Samples | None:
        """Return what one node holds out, as in `private`; None if nodes hold out nothing."""
        if not self.spec.validation_share:
            return None
        if vertex not in self._validation:
            self._validation[vertex] = self._samples(self._source.train, self.validation_rows(vertex))
        return self._validation[vertex]

    def private_rows(self, vertex: int) -> np.ndarray:
        """Return the rows that a node trains on, [samples]; raises the same errors as `private`."""
        return np.delete(self._rows(vertex), self._held_out(vertex))

    def validation_rows(self, vertex: int) -> np.ndarray:
        """Return the rows that a node holds out, [samples]; raises the same errors as `private`."""
        return self._rows(vertex)[self._held_out(vertex)]

    def _held_out(self, vertex: int) -> np.ndarray:
        """Return the positions of the validation samples among a node's samples."""
        return held_out(self.spec, len(self._rows(vertex)), vertex)

    def _rows(self, vertex: int) -> np.ndarray:
        """Return the rows of all samples of a node, [samples]."""
        if not 0 <= vertex < self.spec.num_partitions:
            raise InputError(f"partition-id = {vertex} is outside 0 to {self.spec.num_partitions - 1}")
        return sampled(self.spec, self._partition[vertex], vertex)

    def _partitioned(self) -> list[np.ndarray]:
        """Return the training rows of each node's partition, from labels and row numbers: no image is read."""
        spec = self.spec
        partitioner = partitioner_of(spec, derive(spec.seed, "partition") % 2**32)
        labels = self._source.train.labels[self._private_rows]
        partitioner.dataset = Dataset.from_dict({LABEL: labels, "row": self._private_rows})
        try:
            parts = [partitioner.load_partition(vertex) for vertex in range(spec.num_partitions)]
        except Exception as error:
            reason = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else describe(error)
            raise InputError(
                f"partition {with_settings(spec)!r} does not fit {len(labels)} samples of {self.num_classes} labels "
                f"and {spec.num_partitions} nodes: {reason}"
            ) from None
        empty = next((vertex for vertex, part in enumerate(parts) if len(part) == 0), None)
        if empty is not None:
            raise InputError(
                f"partition {spec.partition!r} gives node {empty} no samples: {len(labels)} are too few for "
                f"{spec.num_partitions} nodes"
            )
        return [part.with_format("numpy")["row"][:] for part in parts]

    @property
    def _unnormalized_reference(self) -> Tensor:
        return self._read_reference[0]

    @cached_property
    def _read_reference(self) -> tuple[Tensor, str]:
        """The reference set's images in [0, 1], and the fingerprint, in one pass: decoded pixels are not kept."""
        known = known_normalization(self.spec.dataset, self.spec.normalization)
        digest = hashlib.sha256(f"image-size {self.spec.image_size}, normalization {known}".encode())
        pixels = self._source.train.decode(self._reference_rows)
        for each in pixels:
            digest.update(f"{each.shape} {each.dtype}".encode())
            digest.update(np.ascontiguousarray(each).tobytes())
        if not pixels:  # use the shape of any image
            return self._source.train.images(self._source.train.decode(np.array([0])))[:0], digest.hexdigest()
        return self._source.train.images(pixels), digest.hexdigest()

    @cached_property
    def normalization(self) -> Normalization:
        """What turns images in [0, 1] into inputs."""
        return normalization(self.spec.dataset, self._unnormalized_reference, self.spec.normalization)

    def _samples(self, split: Split, rows: np.ndarray) -> Samples:
        images = self.normalization(split.read(rows))
        return images, torch.from_numpy(split.labels[rows].astype(np.int64))


def sampled(spec: DataSpec, rows: np.ndarray, vertex: int) -> np.ndarray:
    """Return the rows [samples] that a node uses of those that it has: as many as a node may have at most."""
    if not 0 < spec.samples_per_node < len(rows):
        return rows
    generator = np.random.default_rng(derive(spec.seed, "private samples", vertex))
    return generator.choice(rows, spec.samples_per_node, replace=False)


def held_out(spec: DataSpec, samples: int, vertex: int) -> np.ndarray:
    """Return the positions of a node's validation samples among its samples.

    Raises
    ------
    InputError
        If it is to hold one out of a single sample.
    """
    share = spec.validation_share
    if not share:
        return np.arange(0)
    if samples < 2:
        raise InputError(f"it has a single private sample, too few to hold one out: validation-share = {share:g}")
    generator = np.random.default_rng(derive(spec.seed, "validation samples", vertex))
    return generator.choice(samples, max(1, round(share * samples)), replace=False)


@lru_cache(maxsize=4)
def load(spec: DataSpec) -> FederatedData:
    """Return the data of a spec, shared by the nodes of a process; raises the same errors as FederatedData."""
    return FederatedData(spec)
