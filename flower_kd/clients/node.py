"""A node: a model, its private data and the reference set, with adapters for DataLoaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from flower_kd import augmentation
from flower_kd.augmentation import Augmentation
from flower_kd.data.normalization import Normalization
from flower_kd.errors import InputError
from flower_kd.models.card import ModelCard
from flower_kd.models.two_heads import TwoHeads
from flower_kd.schedule import CONSTANT, Schedule
from flower_kd.seeding import derive
from flower_kd.teacher import Teacher

Batch = tuple[Tensor, Tensor]


class PrivateData(Protocol):
    """A node's own training samples, as batches by step, so that every step is reproducible."""

    def batches(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """Yield `num_steps` batches of inputs [batch, ...] and labels [batch]."""

    def __len__(self) -> int:
        """Return the number of samples."""


@dataclass
class Node:
    """What a device trains, and on which data.

    Parameters
    ----------
    model : nn.Module
        Returns logits [batch, classes].
    optimizer : Optimizer
        Of the model's parameters.
    private : PrivateData or DataLoader
        Labeled samples that never leave the node.
    reference : Tensor or DataLoader
        The public reference set, inputs [rows, ...] in the same order on every node; a loader's labels are ignored.
    test : iterable of (inputs, labels), or DataLoader
        Batches to evaluate on.
    classes : int
        Number of classes.
    name : str
        The model's name in the handshake.
    fingerprint : str
        SHA-256 of the reference set, if already known; otherwise computed in the handshake.
    card : ModelCard, optional
        How its model can be used after the run, which keeps the final models of nodes that have one.
    validation : iterable of (inputs, labels), or DataLoader, optional
        Batches of the node's own that it does not train on: whenever it is evaluated, it keeps the model if its loss on
        them is the lowest so far.
    schedule : str or callable
        The learning rate over the run, as a factor of the optimizer's own; see `flower_kd.schedule.factors`. Factors
        are computed once for each function: one that is made anew for each message costs them each time.
    augment : str or callable
        How private inputs are changed at random in each step; see `flower_kd.augmentation.get`. One of images in
        [0, 1] gets them by the normalization of the card.
    reference_augment : str or callable
        The same for reference inputs in distillation; their teacher stays that of the unchanged row, and predictions
        that leave the node are those of unchanged rows.
    build_model : callable (str) -> nn.Module, optional
        Builds a neighbor's model from its `name`, for teachers that are asked on private data. It is not needed for
        neighbors whose model has the name of the node's own.
    memory : dict of ndarray
        What flower-kd keeps between messages beside the weights (`flower_kd.clients.memory`). To be left out.
    """

    model: nn.Module
    optimizer: Optimizer
    private: PrivateData | DataLoader
    reference: Tensor | DataLoader
    test: Iterable[Batch]
    classes: int
    name: str = ""
    fingerprint: str = ""
    card: ModelCard | None = None
    validation: Iterable[Batch] | None = None
    schedule: str | Schedule = CONSTANT
    augment: str | augmentation.Part = augmentation.NONE
    reference_augment: str | augmentation.Part = augmentation.NONE
    build_model: Callable[[str], nn.Module] | None = None
    memory: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    # Networks of neighbors, built from what is in `memory`, with the array there that tells whether they still are.
    teachers: tuple[np.ndarray, Callable[[Tensor], Teacher | None]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.name = self.name or (self.model.kind if isinstance(self.model, TwoHeads) else type(self.model).__name__)
        if isinstance(self.private, DataLoader):
            self.private = LoaderBatches(self.private)
        if isinstance(self.reference, DataLoader):
            self.reference = inputs_of(self.reference)

    @cached_property
    def has_batch_norm(self) -> bool:
        """Whether a row's logits depend on the other rows of its batch in training."""
        return any(isinstance(module, _BatchNorm) for module in self.model.modules())

    @property
    def augmentation(self) -> Augmentation | None:
        """The augmentation of private inputs; None if they stay as they are."""
        return augmentation.get(self.augment, self._normalization)

    @property
    def reference_augmentation(self) -> Augmentation | None:
        """The augmentation of reference inputs; None if they stay as they are."""
        return augmentation.get(self.reference_augment, self._normalization)

    @property
    def _normalization(self) -> Normalization | None:
        return Normalization(tuple(self.card.mean), tuple(self.card.std)) if self.card is not None else None


@dataclass(frozen=True)
class ShuffledBatches:
    """Tensors in batches; each pass is shuffled by (seed, vertex, pass) and drops an incomplete last batch.

    Parameters
    ----------
    inputs, labels : Tensor
        [samples, ...] and [samples].
    batch_size, seed, vertex : int
        A batch size above the number of samples means all samples in each step.
    """

    inputs: Tensor
    labels: Tensor
    batch_size: int
    seed: int
    vertex: int

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise InputError(f"there are {len(self.inputs)} private inputs and {len(self.labels)} labels")
        if self.batch_size < 1:
            raise InputError(f"batch_size = {self.batch_size} must be at least 1")

    def batches(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """Yield the batches of steps `first_step` to `first_step + num_steps - 1`."""
        size = min(self.batch_size, len(self))
        per_pass = len(self) // size
        for step in range(first_step, first_step + num_steps):
            order = _shuffled(self.seed, self.vertex, step // per_pass, len(self))
            rows = order[step % per_pass * size :][:size]
            yield self.inputs[rows], self.labels[rows]

    def __len__(self) -> int:
        return len(self.labels)


# For a few nodes that alternate step by step. A larger cache does not help thousands of nodes, and its small tensors
# fragment the memory.
@lru_cache(maxsize=64)
def _shuffled(seed: int, vertex: int, data_pass: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive(seed, "private batches", vertex, data_pass))
    return torch.randperm(samples, generator=generator)


@dataclass(frozen=True)
class LoaderBatches:
    """A user's DataLoader, restarted for each message so that a node keeps no iterator between messages.

    A sequential loader continues where the previous message stopped; one that shuffles draws a new order from torch's
    global generator, which training seeds.
    """

    loader: DataLoader

    def __post_init__(self) -> None:
        if self.loader.generator is not None:
            raise InputError(
                "the private loader has a generator of its own: remove it, the run's seed determines the order"
            )
        if not hasattr(self.loader.dataset, "__len__"):
            raise InputError("the private loader's data set has no length: steps are counted in passes over it")

    def batches(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """Yield the loader's next `num_steps` batches, restarting it as often as needed."""
        left = num_steps
        skipped = first_step % max(len(self.loader), 1) if isinstance(self.loader.sampler, SequentialSampler) else 0
        while left > 0:
            before = left
            for inputs, labels in islice(self.loader, skipped, None):
                yield inputs, labels
                left -= 1
                if left == 0:
                    return
            if left == before:
                raise InputError("the private loader yields no batches (empty, or drop_last with few samples)")
            skipped = 0

    def __len__(self) -> int:
        return len(self.loader.dataset)  # type: ignore[arg-type]


def inputs_of(loader: DataLoader) -> Tensor:
    """Return the inputs of a loader as one tensor [rows, ...].

    Raises
    ------
    InputError
        If the loader shuffles, so that rows would differ between nodes, or its batches are not tensors.
    """
    if isinstance(loader.sampler, RandomSampler):
        raise InputError(
            "the reference loader shuffles: use shuffle=False, as rows must have the same order on all nodes"
        )
    batches = [batch[0] if isinstance(batch, list | tuple) else batch for batch in loader]
    if not batches:
        raise InputError("the reference loader yields no batches")
    if not all(isinstance(inputs, Tensor) for inputs in batches):
        raise InputError(
            f"a batch of the reference loader is of type {type(batches[0]).__name__}, but must be a tensor of inputs "
            "or a list that starts with one"
        )
    shapes = list(dict.fromkeys(tuple(inputs.shape[1:]) for inputs in batches))
    if len(shapes) > 1:
        raise InputError(f"the reference loader has rows of different shapes: {list(shapes[0])} and {list(shapes[1])}")
    return torch.cat(batches)
