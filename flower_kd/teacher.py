"""What a node distills from: strategies pool it, clients learn from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Teacher:
    """What one node distills from.

    Parameters
    ----------
    soft_labels : Tensor
        Probabilities, [rows, classes], or [teachers, rows, classes] if each neighbor remains a separate teacher.
    weights : Tensor or None
        [teachers], positive, with a mean of 1, for separate teachers.
    """

    soft_labels: Tensor
    weights: Tensor | None = None
