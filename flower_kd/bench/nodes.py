"""Nodes with generated data, so that benchmarks measure the engine and not a disk or a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from flwr.app import Context

from flower_kd import models
from flower_kd.clients import Node, ShuffledBatches
from flower_kd.clients.node import Batch
from flower_kd.data import fingerprint

CLASSES = 10
TEST_SAMPLES = 360


@dataclass(frozen=True)
class Workload:
    """What one node trains on.

    Parameters
    ----------
    model : str
        Registered name.
    shape : tuple of int
        Channels, height and width of an image.
    samples, batch_size, reference_rows : int
        Private samples per node, samples per step, rows of the reference set.
    """

    model: str
    shape: tuple[int, int, int]
    samples: int
    batch_size: int
    reference_rows: int

    def build_model(self, vertex: int) -> torch.nn.Module:
        """Return a node's model with its initial weights."""
        return models.build(self.model, CLASSES, self.shape, seed=vertex)

    def factory(self, num_nodes: int) -> Callable[[Context], Node]:
        """Return a factory of the network's nodes, which share one copy of the data."""
        images, labels = self.draw(num_nodes * self.samples, seed=0)
        reference, _ = self.draw(self.reference_rows, seed=1)
        test = [self.draw(TEST_SAMPLES, seed=2)]
        known = fingerprint(reference)

        def build(context: Context) -> Node:
            torch.set_num_threads(1)
            vertex = int(context.node_config["partition-id"])
            own = slice(vertex * self.samples, (vertex + 1) * self.samples)
            model = self.build_model(vertex)
            return Node(
                model=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
                private=ShuffledBatches(images[own], labels[own], self.batch_size, 0, vertex),
                reference=reference,
                test=test,
                classes=CLASSES,
                name=self.model,
                fingerprint=known,
            )

        return build

    def draw(self, samples: int, seed: int) -> Batch:
        """Return images [samples, channels, height, width] around one center per class, and labels [samples]."""
        centers = torch.randn(CLASSES, *self.shape, generator=torch.Generator().manual_seed(3))
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, CLASSES, (samples,), generator=generator)
        images = torch.randn(samples, *self.shape, generator=generator)
        return images.add_(centers[labels]), labels


LENET5_ON_MNIST = Workload("lenet5", (1, 28, 28), samples=500, batch_size=25, reference_rows=400)
MLP_ON_DIGITS = Workload("mlp", (1, 8, 8), samples=20, batch_size=10, reference_rows=400)
