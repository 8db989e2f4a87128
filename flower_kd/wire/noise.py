"""Clipped Gaussian noise on logits (`wire-noise`), by which a message is differentially private.

Each row is centered, as a softmax does not depend on its mean, and shortened to a Euclidean norm of at most `clip`.
Whatever a node's private data are, two messages of R rows then differ by at most `2 * clip * sqrt(R)`: this is the
sensitivity to replacing all data of the node. Noise of `multiplier` times that makes the message a Gaussian mechanism
(Dwork and Roth 2014, appendix A); everything after it is post-processing. `flower_kd.privacy` has the loss.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from flower_kd.errors import InputError, unknown
from flower_kd.parts import signatures
from flower_kd.parts.text import parse
from flower_kd.ranges import Positive
from flower_kd.wire.formats import LARGEST

NONE, GAUSSIAN = "none", "gaussian"
KEY = "wire-noise"


@dataclass(frozen=True)
class GaussianNoise:
    """What is done to the rows of a message before they are encoded.

    Parameters
    ----------
    clip : float
        The largest Euclidean norm of a centered row.
    multiplier : float
        Standard deviation of the noise on each logit, in units of the message's sensitivity.
    """

    clip: Positive
    multiplier: Positive

    def sensitivity(self, rows: int) -> float:
        """Return the largest Euclidean distance of two messages with so many clipped rows."""
        return 2 * self.clip * math.sqrt(rows)

    def std(self, rows: int) -> float:
        """Return the standard deviation of the noise on each logit of a message with so many rows."""
        return self.multiplier * self.sensitivity(rows)

    def added(self, logits: Tensor, normal: np.ndarray) -> Tensor:
        """Return clipped logits with noise, float32, as any wire format takes them.

        Parameters
        ----------
        logits : Tensor
            [rows, classes].
        normal : ndarray
            A draw of the standard normal distribution, of this shape.
        """
        noised = clipped(logits, self.clip) + self.std(len(logits)) * torch.from_numpy(normal)
        return noised.clamp(-LARGEST, LARGEST).float()


@lru_cache(maxsize=16)
def get(text: str) -> GaussianNoise | None:
    """Return the noise that a text names; None for "none".

    Raises
    ------
    InputError
        If it is neither "none" nor "gaussian(clip=..., multiplier=...)", or a value is out of range.
    """
    found = parse(text, KEY)
    if found.name not in (NONE, GAUSSIAN):
        raise InputError(unknown(KEY, found.name, [NONE, GAUSSIAN]))
    settings = signatures.settings_of(GaussianNoise) if found.name == GAUSSIAN else {}
    owner = f"{KEY} {found.name!r}"
    arguments = signatures.check_arguments(owner, settings, found.arguments, f"{owner}: ", found.name)
    return GaussianNoise(**arguments) if settings else None


def clipped(logits: Tensor, clip: float) -> Tensor:
    """Return rows [rows, classes] with mean 0 and a Euclidean norm of at most `clip`, as float64 on the CPU."""
    rows = logits.detach().cpu().double()
    rows = rows - rows.mean(dim=-1, keepdim=True)
    return rows * (clip / rows.norm(dim=-1, keepdim=True).clamp_min(clip))


def secret_normal(shape: tuple[int, ...]) -> np.ndarray:
    """Return a draw of the standard normal distribution that nobody can repeat: from the system's randomness."""
    bits = np.frombuffer(secrets.token_bytes(8 * math.prod(shape)), np.uint64) >> np.uint64(11)
    uniform = torch.from_numpy((bits.astype(np.float64) + 0.5) / 2**53)  # never 0 or 1
    return torch.special.ndtri(uniform).numpy().reshape(shape)


def seeded_normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return the draw of the standard normal distribution that belongs to a seed: it protects nothing."""
    return np.random.default_rng(seed).standard_normal(shape)
