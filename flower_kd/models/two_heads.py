"""Networks with two heads: one trained on labels alone, one by distillation (Molo et al., SISAP 2024)."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from flower_kd.devices import device_of
from flower_kd.errors import InputError, of_type

HIDDEN = (512, 256)  # of the second head, as in the public code


class Headed(nn.Module):
    """A backbone and a head.

    Parameters
    ----------
    backbone : nn.Module
        From inputs [batch, ...] to features [batch, width].
    head : nn.Module
        From features to logits [batch, classes].
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._frozen = False
        self._width = next(layer.in_features for layer in head.modules() if isinstance(layer, nn.Linear))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [batch, classes]."""
        if self._frozen:
            with torch.no_grad():
                features = self.backbone(inputs)
        else:
            features = self.backbone(inputs)
        if features.ndim != 2:
            raise InputError(
                f"the backbone returns features of shape {list(features.shape)}, not [batch, num_features]"
            )
        if features.shape[1] != self._width:
            raise InputError(
                f"the backbone returns features of shape {list(features.shape)}, but its num_features is {self._width}"
            )
        return self.head(features)

    def freeze_backbone(self, frozen: bool) -> None:
        """Keep the backbone, with its batch statistics, as it is in training; or train it again."""
        self._frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Headed:
        """Set the mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self


class TwoHeads(nn.Module):
    """Two networks of one kind: `local` learns from labels alone, `distilled` goes on from there with teachers.

    The two-head client of Molo, Vadicamo, Carlini, Gennaro and Connor (SISAP 2024). Head 1 is one linear layer; head 2
    has two hidden layers of 512 and 256 units with ReLU. A forward pass returns the logits of head 1 until
    `begin_distillation`, and those of head 2 from then on; the other network takes no part, and gets no gradients.

    Parameters
    ----------
    model : nn.Module
        The backbone, in one of two ways: a classifier whose last layer is a `torch.nn.Linear` with one output a class,
        which becomes head 1; or a module that returns features [batch, num_features] and has this number as an
        attribute (timm's convention). It must not be used elsewhere.
    classes : int
        Width of the logits, at least 2.

    Raises
    ------
    InputError
        If the model is neither, or there are fewer than two classes.
    """

    distilling: Tensor

    def __init__(self, model: nn.Module, *, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise InputError(f"a network with two heads needs at least 2 classes to distill, not {classes}")
        self.kind = type(model).__name__
        self.local = with_linear_head(model, classes)
        width = cast(nn.Linear, self.local.head).in_features
        device = device_of(model)
        layers: list[nn.Module] = []
        for outputs in HIDDEN:
            layers += [nn.Linear(width, outputs, device=device), nn.ReLU()]
            width = outputs
        head = nn.Sequential(*layers, nn.Linear(width, classes, device=device))
        self.distilled = Headed(copied(self.local.backbone), head)
        # A buffer, so that all that stores or sends the weights knows which head is in use.
        self.register_buffer("distilling", torch.tensor(False))

    @property
    def in_use(self) -> Headed:
        """The network whose logits are returned; reading it waits for a GPU, if the model is on one."""
        return self.distilled if self.distilling else self.local

    def begin_distillation(self) -> None:
        """Use head 2 from now on, on a copy of head 1's backbone with its batch statistics."""
        self.distilled.backbone.load_state_dict(self.local.backbone.state_dict())
        self.distilling.fill_(True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits [batch, classes] of the head in use."""
        return self.in_use(inputs)


def in_use(model: nn.Module) -> nn.Module:
    """Return the network that computes a model's logits: a single one, if the model has two."""
    return model.in_use if isinstance(model, TwoHeads) else model


def plain(model: nn.Module) -> nn.Module:
    """Return the network that is trained without distillation: the model itself, if it has only one."""
    return model.local if isinstance(model, TwoHeads) else model


def with_linear_head(model: nn.Module, classes: int) -> Headed:
    """Return a model as a backbone, and the linear layer after it: the model's own last layer, or a new one.

    Parameters
    ----------
    model : nn.Module
        As in TwoHeads; it loses its last layer, in place.
    classes : int
        Width of the logits.

    Raises
    ------
    InputError
        If the model has neither a linear last layer with one output a class nor an integer `num_features`.
    """
    if isinstance(model, TwoHeads | Headed):
        raise InputError(f"the model is {of_type(model)} already: pass the network that it is made of")
    features = getattr(model, "num_features", None)
    width = features if type(features) is int and features > 0 else 0
    name, last = list(model.named_modules())[-1]
    if isinstance(last, nn.Linear) and last.out_features == classes and width in (0, last.in_features):
        return Headed(_without(model, name), last)
    if width:
        return Headed(model, nn.Linear(width, classes, device=device_of(model)))
    linear = isinstance(last, nn.Linear)
    found = f"a linear layer with {last.out_features} outputs" if linear else of_type(last)
    raise InputError(
        f"model {type(model).__name__!r} has no backbone to put two heads on: its last layer is {found}, but must be a "
        f"torch.nn.Linear with {classes} outputs, or the model must return features [batch, num_features] and have the "
        "whole number num_features as an attribute"
    )


def copied(module: nn.Module) -> nn.Module:
    """Return a copy; of tensors that are computed from parameters, as by torch.nn.utils.prune, their values."""
    attributes = (value for part in module.modules() for value in vars(part).values())
    computed = (value for value in attributes if isinstance(value, Tensor) and not value.is_leaf)
    return deepcopy(module, {id(value): value.detach().clone() for value in computed})


def _without(model: nn.Module, name: str) -> nn.Module:
    """Return a model whose layer of a name passes on what it gets."""
    if not name:
        return nn.Identity()
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return model
