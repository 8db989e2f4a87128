"""A node's own folder of labeled images, instead of its part of the run's data set."""

from __future__ import annotations

import numpy as np
import torch

from flower_kd.data.federated import FederatedData, Samples, held_out, sampled
from flower_kd.data.sources import image_of, load_own


class OwnData:
    """Private samples and validation samples from a folder, prepared as those of the run.

    Parameters
    ----------
    folder : str
        As `load_own` reads it.
    run : FederatedData
        What the run's classes, image shape and normalization are, how many samples a node may have at most, and what
        share of them it holds out.
    vertex : int
        The node's vertex, for its random streams.

    Raises
    ------
    InputError
        If the folder cannot be read, has a class that the run does not have, or too few samples.
    """

    def __init__(self, folder: str, run: FederatedData, vertex: int) -> None:
        channels, *self._size = run.shape
        self._split = load_own(folder, run.label_names, gray=channels == 1)
        self._normalization = run.normalization
        rows = sampled(run.spec, np.arange(len(self._split.labels)), vertex)
        positions = held_out(run.spec, len(rows), vertex)
        self._private_rows, self._validation_rows = np.delete(rows, positions), rows[positions]

    @property
    def private(self) -> Samples:
        """Inputs [samples, channels, height, width] and labels [samples] that the node trains on."""
        return self._samples(self._private_rows)

    @property
    def validation(self) -> Samples | None:
        """What the node holds out; None if nodes hold out nothing."""
        return self._samples(self._validation_rows) if len(self._validation_rows) else None

    def _samples(self, rows: np.ndarray) -> Samples:
        height, width = self._size
        images = torch.stack([image_of(pixels, height, width) for pixels in self._split.decode(rows)])
        return self._normalization(images), torch.from_numpy(self._split.labels[rows].astype(np.int64))
