"""Properties of every model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from flower_kd import models
from flower_kd.errors import of_type
from flower_kd.seeding import torch_seeded
from flower_kd.testing.attempts import attempt
from flower_kd.wire import encode_weights

_CLASSES = 7


def check_model(part: str | Callable[..., nn.Module], shape: tuple[int, int, int] = (1, 8, 8)) -> None:
    """Check a model's outputs, gradients and weights on random images.

    Parameters
    ----------
    part : str or callable
        As in a run config, or the factory with the arguments num_classes and shape.
    shape : tuple of int
        Channels, height and width of an image.

    Raises
    ------
    AssertionError
        If it fails, does not return one row of finite logits per image, in evaluation mode also for a single one, has
        a trainable parameter without a finite gradient, or weights that cannot be sent.
    """
    with torch_seeded(0):
        with attempt(f"images of shape {list(shape)}"):
            model = (
                models.build(part, _CLASSES, shape)
                if isinstance(part, str)
                else part(num_classes=_CLASSES, shape=shape)
            )
        assert isinstance(model, nn.Module), f"it returns {of_type(model)}, not a torch.nn.Module"
        for case, training, batch in (("one image in evaluation", False, 1), ("images in training", True, 4)):
            model.train(training)
            with attempt(case):
                logits = model(torch.randn(batch, *shape))
            assert isinstance(logits, torch.Tensor), f"{case}: it returns {of_type(logits)}, not logits"
            wanted = (batch, _CLASSES)
            assert logits.shape == wanted, f"{case}: logits of shape {list(logits.shape)}, not {list(wanted)}"
            assert logits.isfinite().all(), f"{case}: logits that are not finite"
        with attempt("the gradient"):
            nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"the parameter {name!r} has no gradient: it takes no part"
                assert parameter.grad.isfinite().all(), f"the gradient of {name!r} is not finite"
        with attempt("the weights"):
            encode_weights(model.state_dict())
