"""Augmentations: what the student sees of its inputs, drawn anew in each step.

An augmentation takes a batch of inputs [batch, ...] and returns one of the same shape; its randomness comes from
torch's global generator, which training seeds for each step. Inputs are as the model gets them: images are normalized.
One that takes `targets` too, probabilities [batch, ...], mixes rows and returns both.

A new one is a function and its registration::

    @AUGMENTATIONS.register("mirror")
    def mirror(inputs: Tensor) -> Tensor:
        turned = torch.rand(len(inputs), 1, 1, 1, device=inputs.device) < 0.5
        return torch.where(turned, inputs.flip(-1), inputs)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from flower_kd.data.normalization import Normalization
from flower_kd.errors import InputError, of_type
from flower_kd.failures import named
from flower_kd.parts.registry import Registry
from flower_kd.parts.signatures import parameters_of
from flower_kd.ranges import Count, NonNegative, Positive, Share

NONE = "none"
_ELASTIC = 6  # displacements along each side of an image

# From inputs to inputs, or from inputs and targets to both; with `of_pixels = True`, images in [0, 1].
Part = Callable[..., Any]

# The transforms of torchvision are parts as they are: "torchvision.transforms.v2:RandomRotation(degrees=10)".
AUGMENTATIONS: Registry[Part] = Registry(
    "augmentation", group="flower_kd.augmentations", given=("inputs", "targets"), foreign=True
)


class Augmentation:
    """An augmentation as training uses it.

    Parameters
    ----------
    name : str
        As in the run config, or what a function is called.
    part : callable
        From inputs, and targets if it takes them, to the same. A transform of torchvision is called for each image, as
        it draws one set of parameters a call, and gets and returns pixels in [0, 1]; so does any part with
        `of_pixels = True`, for a batch.
    normalization : Normalization, optional
        Of the inputs, if they are images.

    Raises
    ------
    InputError
        If the part needs pixels in [0, 1], and the normalization is not known.
    """

    def __init__(self, name: str, part: Part, normalization: Normalization | None = None) -> None:
        self.name = name
        self._part: Part = _ByImage(part) if _is_of_torchvision(part) else part
        self._normalization = normalization if getattr(self._part, "of_pixels", False) else None
        if getattr(self._part, "of_pixels", False) and normalization is None:
            raise InputError(
                f"augmentation {name!r} works on pixels in [0, 1], but the node has no card that says how its inputs "
                "are normalized: give Node a card, or a function of the inputs themselves"
            )
        self.mixes = _takes_targets(self._part)
        """Whether targets change with the inputs."""

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs [batch, ...] and targets [batch, ...] after augmentation; targets change only if it mixes.

        Raises
        ------
        InputError
            If the inputs do not fit, or the part fails.
        """
        title = f"augmentation {self.name!r}"
        with named(f"{title} of inputs of shape {list(inputs.shape)}"):
            try:
                return self._applied(inputs, targets)
            except InputError as error:
                raise InputError(f"{title}: {error}") from None

    def _applied(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        shown = inputs if self._normalization is None else _pixels(inputs, self._normalization)
        if self.mixes:
            changed, targets = self._part(shown, targets)
        else:
            changed = self._part(shown)
        return (changed if self._normalization is None else self._normalization(changed)), targets


def names() -> list[str]:
    """Return the names of the augmentations."""
    return AUGMENTATIONS.names()


def get(part: str | Part, normalization: Normalization | None = None) -> Augmentation | None:
    """Return an augmentation; None for "none".

    Parameters
    ----------
    part : str or callable
        One of `names()` or `module:attribute`, with settings in parentheses if it has any; or what it names.
    normalization : Normalization, optional
        Of the inputs, if they are images.

    Raises
    ------
    InputError
        If the name or a setting cannot be used, or the normalization is needed and not known.
    """
    if isinstance(part, str):
        return _by_name(part, normalization)
    return Augmentation(getattr(part, "__qualname__", type(part).__name__), part, normalization)


@lru_cache(maxsize=64)
def _by_name(text: str, normalization: Normalization | None) -> Augmentation | None:
    if AUGMENTATIONS.parse(text).name == NONE:
        AUGMENTATIONS.bind(text)
        return None
    part = AUGMENTATIONS.make(text)
    if not callable(part):
        raise InputError(f"augmentation {text!r} is {of_type(part)}, which cannot be called with inputs")
    return Augmentation(text, part, normalization)


@AUGMENTATIONS.register(NONE)
def none(inputs: Tensor) -> Tensor:
    """Change nothing."""
    return inputs


@AUGMENTATIONS.register("shift")
def shift(inputs: Tensor, *, pixels: Count = 2) -> Tensor:
    """Shift each image by up to `pixels` in both directions; its edges are repeated."""
    down, right = _offsets(inputs, pixels)
    return _moved(inputs, down, right)


@AUGMENTATIONS.register("crop-flip")
def crop_flip(inputs: Tensor, *, pixels: Count = 4) -> Tensor:
    """Shift each image by up to `pixels`, and mirror every other one: random crops with padding, flipped (He 2016)."""
    down, right = _offsets(inputs, pixels)
    return _moved(inputs, down, right, torch.rand(len(inputs), 1, device=inputs.device) < 0.5)


def _offsets(images: Tensor, pixels: int) -> Tensor:
    """Return whole numbers from -pixels to pixels, [2, batch, 1]; raises InputError if the images are too small."""
    _check_images(images)
    height, width = images.shape[-2:]
    if pixels >= min(height, width):
        raise InputError(f"pixels = {pixels} is too large for images of {height} x {width}")
    return torch.randint(-pixels, pixels + 1, (2, len(images), 1), device=images.device)


def _moved(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Return images [batch, channels, height, width] moved by offsets [batch, 1], with edges repeated."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) - down).clamp_(0, height - 1)  # [batch, height]
    columns = (torch.arange(width, device=images.device) - right).clamp_(0, width - 1)
    if mirrored is not None:
        columns = torch.where(mirrored, columns.flip(-1), columns)
    source = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # [batch, height * width]
    return images.flatten(2).gather(2, source[:, None].expand(-1, images.shape[1], -1)).view_as(images)


@AUGMENTATIONS.register("affine")
def affine(
    inputs: Tensor,
    *,
    degrees: NonNegative = 15.0,
    translate: Share = 0.07,
    scale: Share = 0.15,
    shear: Share = 0.15,
    elastic: Share = 0.0,
) -> Tensor:
    """Turn, shift, scale, shear and bend each image (as RandomAffine of torchvision, which draws once a call).

    Parameters
    ----------
    inputs : Tensor
        [batch, channels, height, width]; edges are repeated.
    degrees : float
        The largest angle.
    translate : float
        The largest shift in each direction, as a share of the height or width.
    scale, shear : float
        The largest change of height and of width, each by itself, and of the slope of vertical lines, as shares.
    elastic : float
        Standard deviation of displacements, as a share of the height or width: normal on a coarse grid, linear in
        between (after the elastic distortions of Simard, Steinkraus and Platt, ICDAR 2003).
    """
    _check_images(inputs)
    height, width = inputs.shape[-2:]
    turn, tall, wide, slope, down, right = torch.rand(6, len(inputs), device=inputs.device) * 2 - 1
    turn = turn * math.radians(degrees)
    tall, wide, slope = 1 + scale * tall, 1 + scale * wide, shear * slope
    cos, sin = turn.cos(), turn.sin()
    aspect = width / height  # torch counts rows and columns from -1 to 1
    first = torch.stack([cos * wide, (cos * slope - sin) * tall / aspect, 2 * translate * right], dim=1)
    second = torch.stack([sin * wide * aspect, (sin * slope + cos) * tall, 2 * translate * down], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(inputs.shape), align_corners=False)
    if elastic:
        bent = torch.randn(len(inputs), 2, _ELASTIC, _ELASTIC, device=inputs.device) * (2 * elastic)
        bent = F.interpolate(bent, size=(height, width), mode="bilinear", align_corners=True)
        grid = grid + bent.permute(0, 2, 3, 1)
    return F.grid_sample(inputs, grid.to(inputs.dtype), padding_mode="border", align_corners=False)


@AUGMENTATIONS.register("randaugment")
class RandAugment:
    """RandAugment of torchvision on each image (Cubuk et al. 2020)."""

    of_pixels = True

    def __init__(self, *, num_ops: Count = 2, magnitude: Annotated[int, Interval(ge=0, le=30)] = 9) -> None:
        from torchvision.transforms import v2  # takes seconds

        self._of_images = _ByImage(v2.RandAugment(num_ops, magnitude))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return images [batch, channels, height, width]."""
        return self._of_images(inputs)


@AUGMENTATIONS.register("noise")
def noise(inputs: Tensor, *, std: NonNegative = 0.1) -> Tensor:
    """Add normal noise of standard deviation `std`."""
    return inputs + std * torch.randn_like(inputs)


@AUGMENTATIONS.register("mixup")
def mixup(inputs: Tensor, targets: Tensor, *, alpha: Positive = 0.2) -> tuple[Tensor, Tensor]:
    """Mix each row and its target with another one of the batch, by a share from Beta(alpha, alpha) (Zhang 2018)."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    others = torch.randperm(len(inputs), device=inputs.device)
    return inputs.lerp(inputs[others], share), targets.lerp(targets[others], share)


class _ByImage:
    """A transform of torchvision, which draws its parameters once a call, on each image of a batch."""

    of_pixels = True

    def __init__(self, transform: Part) -> None:
        self._transform = transform

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.stack([self._transform(image) for image in inputs])


def _takes_targets(part: Part) -> bool:
    try:
        return "targets" in parameters_of(part)
    except ValueError:  # a function of C, such as those of torch
        return False


def _is_of_torchvision(part: Part) -> bool:
    return any(cls.__module__.startswith("torchvision.transforms.") for cls in type(part).__mro__)


def _pixels(inputs: Tensor, normalization: Normalization) -> Tensor:
    """Return normalized images in [0, 1]."""
    _check_images(inputs)
    return normalization.undone(inputs).clamp_(0.0, 1.0)


def _check_images(inputs: Tensor) -> None:
    if inputs.ndim != 4:
        raise InputError(f"it needs images [channels, height, width], not inputs of shape {list(inputs.shape[1:])}")
