"""Means and standard deviations of pixels, by data set."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from flower_kd.errors import InputError

# Of the training images in [0, 1], one value per channel.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3760,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashionmnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}
AUTO, IMAGENET = "auto", "imagenet"
CHOICES = (AUTO, IMAGENET)


@dataclass(frozen=True)
class Normalization:
    """Subtracts a mean and divides by a standard deviation, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return normalized images, [rows, channels, height, width]."""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return images.sub(mean).div_(std)  # torchvision's order of operations, whose import takes seconds

    def undone(self, images: Tensor) -> Tensor:
        """Return images in [0, 1], up to rounding, of normalized ones."""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return images.mul(std).add_(mean)


def normalization(dataset: str, reference: Tensor, chosen: str = AUTO) -> Normalization:
    """Return the statistics of a known data set, else those of the reference set, which all nodes share.

    Parameters
    ----------
    dataset : str
        A name or folder; only its last part is used ("ylecun/mnist").
    reference : Tensor
        Reference images in [0, 1], [rows, channels, height, width]; if empty, pixels are scaled to [-1, 1].
    chosen : {"auto", "imagenet"}
        "imagenet" for the statistics with which torchvision's ImageNet weights were trained, whatever the data set.

    Raises
    ------
    InputError
        If ImageNet's are chosen for images without three channels.
    """
    channels, known = reference.shape[1], known_normalization(dataset, chosen)
    if chosen == IMAGENET and channels != 3:
        raise InputError(
            f"normalization = 'imagenet' is for color images, but those of dataset {dataset!r} have {channels} channel"
        )
    if known is not None and len(known.mean) == channels:
        return known
    if len(reference) == 0:
        return Normalization((0.5,) * channels, (0.5,) * channels)
    # In float64, so that the order of summation does not affect the float32 result.
    pixels = reference.to(torch.float64).transpose(0, 1).reshape(channels, -1)
    std = pixels.std(dim=1, unbiased=False).clamp_min(1e-3)
    return Normalization(tuple(pixels.mean(dim=1).tolist()), tuple(std.tolist()))


def known_normalization(dataset: str, chosen: str = AUTO) -> Normalization | None:
    """Return the statistics for a data set's name or folder, if known; see `normalization`."""
    if chosen == IMAGENET:
        return Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    name = re.sub(r"[^a-z0-9]", "", dataset.rstrip("/").rsplit("/", 1)[-1].lower())
    return Normalization(*STATISTICS[name]) if name in STATISTICS else None
