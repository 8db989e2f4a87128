"""How many private samples of each class a node has."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from flower_kd.clients.checks import batch_of, check_labels, labels_in_memory
from flower_kd.clients.memory import remember, remembered
from flower_kd.clients.node import LoaderBatches, Node
from flower_kd.devices import device_of
from flower_kd.errors import InputError
from flower_kd.seeding import torch_seeded

COUNTS = "class-counts"  # what a node remembers, as counting may take a pass over its data


def class_counts(node: Node) -> list[int]:
    """Return a node's number of private samples of each class.

    Labels are counted in memory if they are there; otherwise in one pass over the loader, which leaves torch's random
    generators unchanged. Private data of another kind need an attribute `labels`, a tensor [samples].

    Raises
    ------
    InputError
        If the labels cannot be counted.
    """
    private = node.private
    if isinstance(private, LoaderBatches):
        everything = labels_in_memory(private) if _takes_every_sample(private.loader) else None
        if everything is None:
            with torch_seeded(0, device_of(node.model)):
                return _counted_in_a_pass(private.loader, node.classes)
    else:
        everything = getattr(private, "labels", None)
    if not isinstance(everything, Tensor) or everything.shape != (len(private),):
        kind = type(private).__name__
        raise InputError(
            f"the private data are of type {kind}, which does not say how many samples of each class it has, as this "
            f"run needs: give it an attribute `labels`, a tensor of shape [{len(private)}]"
        )
    check_labels(everything, node.classes, "private")
    return torch.bincount(everything, minlength=node.classes).tolist()


def remember_class_counts(node: Node) -> None:
    """Count a node's private samples of each class, for `remembered_class_counts`; raises as `class_counts` does."""
    remember(node, COUNTS, {"private": np.array(class_counts(node))})


def remembered_class_counts(node: Node) -> np.ndarray:
    """Return what `class_counts` returned in the handshake, [classes]; counted now if there was none."""
    if not remembered(node, COUNTS):
        remember_class_counts(node)
    return remembered(node, COUNTS)["private"]


def _takes_every_sample(loader: DataLoader) -> bool:
    """Return whether a loader yields the samples of its data set, rather than some of them or some more often."""
    batches, samples = loader.batch_sampler, loader.sampler
    own = type(batches) is BatchSampler and batches.sampler is samples
    return own and type(samples) in (SequentialSampler, RandomSampler)


def _counted_in_a_pass(loader: DataLoader, classes: int) -> list[int]:
    counts = torch.zeros(classes, dtype=torch.int64)
    for batch in loader:
        _, labels = batch_of(batch, "private")
        check_labels(labels, classes, "private")
        counts += torch.bincount(labels, minlength=classes).to(counts.device)
    return counts.tolist()
