"""Which device a node computes on."""

from __future__ import annotations

import torch
from torch import nn

from flower_kd.errors import InputError


def device(name: str) -> torch.device:
    """Return the torch device of a name; "auto" is CUDA if available, else the CPU.

    Raises
    ------
    InputError
        If the name is unknown, or the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(1, device=found).item()  # the meta device has no values
    except (RuntimeError, AssertionError, NotImplementedError):  # what torch raises depends on how it was built
        raise InputError(
            f"device {name!r} is not available (allowed: auto, cpu, cuda or cuda:N if there is one)"
        ) from None
    return found


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
