"""What one side last sent and the other received, by reference row: deltas are made from it and applied to it."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord
from torch import Tensor

from flower_kd.protocol import NO_BASE
from flower_kd.wire.formats import WireFormat
from flower_kd.wire.records import digest


class LastRows:
    """The encoded rows of one node's last messages.

    Parameters
    ----------
    wire_format : WireFormat
        Its format, with the coding "delta".
    reference_rows, classes : int
        Number of reference rows, and of classes.

    Attributes
    ----------
    words : ndarray
        uint8, [reference rows, bytes].
    known : ndarray
        bool, [reference rows], which of them were ever sent.
    """

    def __init__(self, wire_format: WireFormat, reference_rows: int, classes: int) -> None:
        self._format = wire_format
        self._classes = classes
        self.words = np.zeros((reference_rows, wire_format.row_bytes(classes)), np.uint8)
        self.known = np.zeros(reference_rows, bool)

    def restore(self, words: np.ndarray, known: np.ndarray) -> None:
        """Take over saved rows; those of another format or reference set are forgotten."""
        if words.shape == self.words.shape and known.shape == self.known.shape:
            self.words, self.known = words.astype(np.uint8), known.astype(bool)

    def digest(self, rows: np.ndarray) -> int:
        """Return the digest of some encoded rows, [rows], as they are known; `NO_BASE` if one of them is not."""
        return _digest(self._base(rows))

    def encode(self, logits: Tensor, rows: np.ndarray, known: int) -> ArrayRecord:
        """Return the logits, [rows, classes], of some rows as a record.

        Parameters
        ----------
        logits : Tensor
            [rows, classes].
        rows : ndarray
            Which reference rows they are about, [rows].
        known : int
            The receiver's `digest` of these rows. Only what changed is encoded if it is also that of this side.
        """
        words = self._format.words(logits)
        base = self._base(rows)
        record = self._format.pack(words, tuple(logits.shape), base if known == _digest(base) else None)
        self._keep(rows, words)
        return record

    def decode(self, record: ArrayRecord, rows: np.ndarray) -> Tensor:
        """Return logits [rows, classes]; raises InputError, and keeps nothing, if the record cannot be read."""
        shape = (len(rows), self._classes)
        words = self._format.unpack(record, shape, self._base(rows))
        logits = self._format.values(words, shape)
        self._keep(rows, words)
        return logits

    def _base(self, rows: np.ndarray) -> np.ndarray | None:
        return self.words[rows] if self.known[rows].all() else None

    def _keep(self, rows: np.ndarray, words: np.ndarray) -> None:
        self.words[rows] = words
        self.known[rows] = True


def _digest(base: np.ndarray | None) -> int:
    return NO_BASE if base is None else digest({"rows": base})
