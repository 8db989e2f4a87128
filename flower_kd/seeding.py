"""Random streams that depend only on the run's seed and their purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch


def derive(seed: int, purpose: str, *indices: int) -> int:
    """Return a 63-bit seed for one purpose, the same on every machine and engine.

    Parameters
    ----------
    seed : int
        The run's seed, not negative.
    purpose : str
        Purpose of the stream: different purposes never share a stream.
    indices : int
        Distinguish streams with the same purpose, such as vertex and round.
    """
    words = np.random.SeedSequence([seed, crc32(purpose.encode()), *indices]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


@contextmanager
def torch_seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators, the CPU's and that of `device`, and restore them at the end of the block."""
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        seed_torch(seed, device)
        yield


def seed_torch(seed: int, device: torch.device | None = None) -> None:
    """Seed torch's global generators, the CPU's and that of `device`."""
    # Not torch.manual_seed: it resets all GPUs, and before CUDA is initialized it takes a millisecond and queues each
    # call.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
