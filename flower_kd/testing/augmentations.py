"""Properties of every augmentation."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from flower_kd import augmentation
from flower_kd.augmentation import Augmentation, Part
from flower_kd.clients.checks import check_augmentation as check_once
from flower_kd.data.normalization import Normalization
from flower_kd.errors import InputError
from flower_kd.seeding import torch_seeded

_CLASSES = 7


def check_augmentation(part: str | Part, shape: tuple[int, ...] = (3, 32, 32)) -> None:
    """Check what an augmentation returns for random inputs, and where its randomness comes from.

    Parameters
    ----------
    part : str or callable
        As in a run config, or the function of inputs, or of inputs and targets.
    shape : tuple of int
        Of one input; channels, height and width of an image, normalized from [0, 1] to [-1, 1].

    Raises
    ------
    AssertionError
        If it fails, changes its inputs in place or their shape or dtype, returns values that are not finite or targets
        that are not probabilities, or depends on anything else than its inputs and torch's global generator.
    """
    images = Normalization((0.5,) * shape[0], (0.5,) * shape[0]) if len(shape) == 3 else None
    try:
        augment = augmentation.get(part, images)
        if augment is None:
            return
        for batch in (1, 8):
            with torch_seeded(batch):
                inputs = torch.rand(batch, *shape) * 2 - 1
                check_once(augment, inputs, _CLASSES)
            first, second = (_result(augment, inputs, other) for other in (0, 1))
            for one, two in zip(first, second, strict=True):
                assert torch.equal(one, two), "its randomness must come from torch's global generator alone"
            sums = first[1].sum(-1)
            assert torch.allclose(sums, torch.ones_like(sums)), "targets must remain probabilities, whose sum is 1"
    except InputError as error:
        raise AssertionError(str(error)) from error


def _result(augment: Augmentation, inputs: Tensor, other_seed: int) -> tuple[Tensor, Tensor]:
    """Return what an augmentation makes of inputs at one seed of torch, and any of Python's and NumPy's generators."""
    states = random.getstate(), np.random.get_state()
    random.seed(other_seed)
    np.random.seed(other_seed)
    try:
        with torch_seeded(0):
            return augment(inputs, torch.eye(_CLASSES).repeat(2, 1)[: len(inputs)])
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
