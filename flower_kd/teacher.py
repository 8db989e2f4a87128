"""What a node distills from: strategies pool it, clients learn from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from flower_kd.errors import of_type


@dataclass(frozen=True)
class Teacher:
    """What one node distills from.

    Parameters
    ----------
    soft_labels : Tensor
        Probabilities, [rows, classes], or [teachers, rows, classes] if each neighbor remains a separate teacher.
    weights : Tensor or None
        [teachers], positive, with a mean of 1, for separate teachers; None for equal ones.
    """

    soft_labels: Tensor
    weights: Tensor | None = None


def problem(teacher: object, rows: int, classes: int) -> str:
    """Return what is wrong with a teacher on these rows, such as "is a list, not a Teacher"; empty if nothing is."""
    if not isinstance(teacher, Teacher):
        return f"is {of_type(teacher)}, not a Teacher"
    labels, weights = teacher.soft_labels, teacher.weights
    if not isinstance(labels, Tensor):
        return f"has soft labels that are {of_type(labels)}, not a Tensor"
    if labels.ndim not in (2, 3) or labels.shape[-2:] != (rows, classes):
        return (
            f"has soft labels of shape {list(labels.shape)}, but they must be [{rows}, {classes}] or "
            f"[teachers, {rows}, {classes}]"
        )
    if not labels.isfinite().all():
        return "has soft labels that are not finite"
    if weights is None:
        return ""
    if not isinstance(weights, Tensor):
        return f"has weights that are {of_type(weights)}, not a Tensor"
    if labels.ndim == 2:
        return "has weights, but only one teacher: they are for separate teachers, [teachers, rows, classes]"
    if weights.shape != labels.shape[:1]:
        return f"has weights of shape {list(weights.shape)} for {len(labels)} teachers, but must have one each"
    return ""
