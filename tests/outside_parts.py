"""Parts from outside: a module with one of each kind, and a fake installed package with entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flower_kd.parts import registry as parts

MODULE = '''
from typing import Annotated

import networkx as nx
import numpy as np
import torch
from annotated_types import Interval
from flwr_datasets.partitioner import IidPartitioner

from flower_kd.dissimilarity import Dissimilarity, reducible
from flower_kd.pooling import Teacher
from flower_kd.strategies import NeighborKD


def powered(log_p, log_q, *, order: Annotated[float, Interval(gt=0)] = 2.0):
    """Sum of powers of differences."""
    return (log_p.exp() - log_q.exp()).abs().pow(order).sum(-1)


class Scaled(Dissimilarity):
    """A multiple of the squared error."""

    def __init__(self, reduction="mean", *, factor: float = 1.0):
        super().__init__(reduction)
        self.factor = factor

    def forward(self, log_p, log_q):
        rows = self.factor * (log_p.exp() - log_q.exp()).square().sum(-1)
        return rows if self.reduction == "none" else getattr(rows, self.reduction)()


def chords(num_nodes, rng, *, every: int = 2):
    """Return a ring with chords."""
    return nx.circulant_graph(num_nodes, [1, every])


def first(logits, weights, temperature, *, node: int = 0):
    """Teach everybody what one node predicts."""
    return [Teacher(torch.softmax(logits[node] / temperature, -1)) for _ in range(len(logits))]


def lazy(mixed, consensus, now, before, *, speed: Annotated[float, Interval(ge=0, le=1)] = 0.5):
    """Mix, then move toward the own prediction."""
    return (1 - speed) * mixed + speed * now


class Tenth:
    """Values in steps."""

    def __init__(self, *, steps: int = 10):
        self.steps = steps

    def encode(self, values):
        return {"rows": np.rint(values * self.steps).astype(np.int32)}

    def decode(self, arrays, shape):
        return (arrays["rows"] / self.steps).astype(np.float32)


class Halves:
    """Values in half precision, times a share."""

    def __init__(self, *, share: float = 1.0):
        self.share = share

    def compress(self, update):
        return {name: (self.share * change).astype(np.float16) for name, change in update.items()}

    def decompress(self, arrays, shapes):
        return {name: array.astype(np.float32) for name, array in arrays.items()}


def evenly(num_partitions, seed, *, shift: int = 0):
    """Split evenly."""
    return IidPartitioner(num_partitions)


def linear(*, num_classes, shape, bias: bool = True):
    """A linear model."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[0] * shape[1] * shape[2], num_classes, bias))


class Strategy(NeighborKD):
    """Neighbor KD with a setting of its own."""

    def __init__(self, graph, *, strength: Annotated[float, Interval(ge=0, le=1)] = 1.0, **settings):
        super().__init__(graph, **settings)
        self.strength = strength


def waved(optimizer, *, total_steps, waves: Annotated[int, Interval(ge=1)] = 2):
    """Let the rate fall and rise."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps / waves, eta_min=0.1)


class Dropped:
    """Set pixels to 0."""

    def __init__(self, share: float = 0.1):
        self.share = share

    def __call__(self, inputs):
        return inputs * (torch.rand(inputs.shape) >= self.share)


NOT_CALLABLE = 3
'''

# The run-config key, a text for the part with a setting, and a wrong setting with what is said about it.
TEXTS = {
    "dissimilarity": ("powered(order=1.5)", "powered(order=0)", "order = 0 must be above 0"),
    "topology": ("chords(every=3)", "chords(every=2.5)", "every = 2.5 must be a whole number"),
    "pooling": ("first(node=1)", "first(vertex=1)", "unknown argument of pooling .* 'vertex'.*allowed: node"),
    "consensus": ("lazy(speed=0.2)", "lazy(speed=nan)", "speed = nan must be finite"),
    "wire": ("Tenth(steps=100)", "Tenth(steps=few)", "steps = 'few' must be a whole number"),
    "compression": ("Halves(share=0.5)", "Halves(share=nan)", "share = nan must be finite"),
    "partition": ("evenly(shift=1)", "evenly(seed=1)", "seed is supplied by flower-kd"),
    "model": ("linear(bias=false)", "linear(bias=0)", "bias = 0 must be true or false"),
    "schedule": ("waved(waves=3)", "waved(waves=0)", "waves = 0 must be at least 1"),
    "augment": ("Dropped(share=0.2)", "Dropped(share=some)", "share = 'some' must be a number"),
    "strategy": ("Strategy(strength=0.5)", "Strategy(strength=2)", "strength = 2 must be at least 0 and at most 1"),
}


@contextmanager
def module(folder: Path, name: str, content: str = MODULE) -> Iterator[str]:
    """Write a module into a folder that is on Python's path for a block, and return its name."""
    (folder / f"{name}.py").write_text(content)
    sys.path.insert(0, str(folder))
    try:
        yield name
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)


@contextmanager
def installed(folder: Path, package: str, points: str, version: str = "1.2") -> Iterator[None]:
    """Put the metadata of a package with entry points on Python's path for a block."""
    info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)
    sys.path.insert(0, str(folder))
    parts.forget_installed()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        parts.forget_installed()
