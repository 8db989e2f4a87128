"""Calls of poolings with checks of what they return."""

from __future__ import annotations

from typing import Any, cast

import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd import failures, quiet_log
from flower_kd.errors import InputError, of_type
from flower_kd.pooling.registry import Pooling, get
from flower_kd.seeding import torch_seeded
from flower_kd.teacher import Teacher, problem

TRIED_ROWS = 2


def pool(
    name: str,
    pooling: Pooling,
    logits: Tensor,
    weights: csr_array,
    temperature: float,
    class_counts: Tensor | None = None,
) -> list[Teacher | None]:
    """Return a pooling's teachers, one or None per node; the arguments after `pooling` are its own.

    Parameters
    ----------
    class_counts : Tensor, optional
        Number of samples, [nodes, classes], for a pooling that takes them.

    Raises
    ------
    InputError
        If the pooling, known by `name`, fails or returns anything else.
    """
    with failures.named(f"pooling {name!r}"):
        if class_counts is None:
            teachers = pooling(logits, weights, temperature)
        else:
            teachers = cast(Any, pooling)(logits, weights, temperature, class_counts=class_counts)
    if not isinstance(teachers, list | tuple):
        raise InputError(f"pooling {name!r} returns {of_type(teachers)}, not a list of teachers, one per node")
    if len(teachers) != len(logits):
        raise InputError(f"pooling {name!r} returns {len(teachers)} teachers for {len(logits)} nodes")
    for node, found in enumerate(teachers):
        if found is not None and (wrong := problem(found, *logits.shape[1:])):
            raise InputError(f"pooling {name!r}: the teacher of node {node} {wrong}")
    return list(teachers)


def check(name: str, weights: csr_array, classes: int, temperature: float, class_counts: Tensor | None = None) -> None:
    """Try a pooling on two rows of random logits; nothing that a run computes depends on it.

    Parameters
    ----------
    name : str
        As in `get`: an instance of its own is tried, as it may have a memory.
    weights : csr_array
        Those of the run, [nodes, nodes].
    classes, temperature : int, float
        Width of the logits; temperature of the softmax.
    class_counts : Tensor, optional
        As in `pool`.

    Raises
    ------
    InputError
        As in `pool`.
    """
    with torch_seeded(0), quiet_log.only_errors():
        logits = torch.randn(weights.shape[0], TRIED_ROWS, classes)
        pool(name, get(name), logits, weights, temperature, class_counts)
