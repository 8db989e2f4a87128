"""Initial weights from a local file."""

from __future__ import annotations

from collections.abc import Mapping
from logging import INFO
from pathlib import Path

import torch
from flwr.common.logger import log
from safetensors.torch import load_file
from torch import Tensor, nn

from flower_kd.errors import InputError
from flower_kd.models import pruning


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file into a model; a last layer that differs in the number of classes keeps its weights.

    Parameters
    ----------
    model : nn.Module
        Gets the weights, in place.
    path : Path
        A .safetensors file, or one that `torch.load` reads without unpickling code: tensors by the names in the
        model's `state_dict`. Of a pruned model, also the file that a run leaves.

    Raises
    ------
    InputError
        If the file cannot be read, or belongs to another model.
    """
    own = model.state_dict()
    try:
        weights = pruning.with_zeros(_read(path), own)
    except ValueError as problem:
        if isinstance(problem, InputError):
            raise
        raise InputError(f"weights-file {str(path)!r} belongs to another model: {problem}") from None
    head = {name for name in list(own)[-2:] if name in weights and _other_classes(weights[name], own[name])}
    fitting = {n: tensor for n, tensor in weights.items() if n not in own or tensor.shape == own[n].shape}
    missing, unexpected = model.load_state_dict(fitting, strict=False)
    unfit = [name for name in (*missing, *unexpected) if name not in head]
    if unfit:
        more = f" and {len(unfit) - 3} more" if len(unfit) > 3 else ""
        raise InputError(
            f"weights-file {str(path)!r} belongs to another model: {', '.join(unfit[:3])}{more} do not fit"
        )
    if head:
        log(
            INFO,
            "%s has a different number of classes: %s keep their initial weights",
            path.name,
            ", ".join(sorted(head)),
        )


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"weights-file {str(path)!r} is not a file")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"weights-file {str(path)!r} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # both libraries raise many kinds for a broken file
        raise InputError(
            f"weights-file {str(path)!r} cannot be read: it is neither a .safetensors file nor a state_dict() "
            "written by torch.save"
        ) from error
    if not (isinstance(weights, Mapping) and all(isinstance(tensor, Tensor) for tensor in weights.values())):
        raise InputError(f"weights-file {str(path)!r} must contain tensors by name, as a model's state_dict() does")
    if not weights:
        raise InputError(f"weights-file {str(path)!r} contains no tensors")
    return weights


def _other_classes(tensor: Tensor, own: Tensor) -> bool:
    return tensor.shape != own.shape and tensor.shape[1:] == own.shape[1:]
