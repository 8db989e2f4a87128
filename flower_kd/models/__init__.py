"""Models by name or from the user's own factory, with weights that follow from a seed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from logging import INFO
from pathlib import Path

import torch
from flwr.common.logger import log
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from flower_kd.errors import InputError
from flower_kd.models import resnet, small  # noqa: F401  (they register their models)
from flower_kd.models.registry import MODELS, ModelFactory
from flower_kd.registry import unknown

__all__ = ["MODELS", "ModelFactory", "assign", "build", "names", "num_parameters", "parse"]


def names() -> list[str]:
    """Return the names of the models that come with the package."""
    return MODELS.names()


def build(name: str, num_classes: int, shape: tuple[int, int, int], seed: int = 0, weights_file: str = "") -> nn.Module:
    """Return a model whose initial weights follow from the seed alone.

    Parameters
    ----------
    name : str
        One of `names()`, or "module:factory" for the user's own, which is called with `num_classes` and `shape`.
    num_classes : int
        Width of the logits.
    shape : tuple of int
        Channels, height and width of an image.
    seed : int
        Seed of the initial weights; the global generator is left as it was.
    weights_file : str
        A local .safetensors file, or one that `torch.load` reads without unpickling code. A last layer of another
        width keeps its initial weights.

    Raises
    ------
    InputError
        If the name, the factory or the file cannot be used.
    """
    factory = _own(name) if ":" in name else _registered(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = factory(num_classes=num_classes, shape=shape)
        except TypeError as error:
            raise InputError(f"model {name!r} must take num_classes and shape: {error}") from None
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name!r} made a {type(model).__name__}, not a torch.nn.Module")
    if weights_file:
        _load_weights(model, Path(weights_file).expanduser())
    return model


def parse(spec: str) -> list[tuple[str, int | None]]:
    """Return the names in "lenet5*4,resnet8*4" with their counts, None where there is none.

    Raises
    ------
    InputError
        If a name is neither known nor "module:factory", or a count is no positive whole number.
    """
    parts = []
    for part in spec.split(","):
        name, star, count = (word.strip() for word in part.partition("*"))
        if ":" not in name and name not in MODELS:
            raise InputError(unknown("model", name, [*names(), "module:factory"]))
        if star and not (count.isdigit() and int(count) > 0):
            raise InputError(f"model = {spec!r}: {count!r} after '*' must be a whole number above 0")
        parts.append((name, int(count) if star else None))
    return parts


def assign(spec: str, num_nodes: int) -> list[str]:
    """Return each vertex's model.

    Parameters
    ----------
    spec : str
        One name for all nodes; "lenet5*4,resnet8*4" in the order of vertices; "lenet5,resnet8" in turns.
    num_nodes : int
        Number of nodes.

    Raises
    ------
    InputError
        If counts do not add up to the number of nodes, or only some names have one.
    """
    parts = parse(spec)
    counts = [count for _, count in parts if count is not None]
    if not counts:
        return [parts[vertex % len(parts)][0] for vertex in range(num_nodes)]
    if len(counts) < len(parts):
        raise InputError(f"model = {spec!r}: give every model a count (name*count), or none")
    if sum(counts) != num_nodes:
        raise InputError(f"model = {spec!r} is for {sum(counts)} nodes, but there are {num_nodes}")
    return [name for name, count in parts for _ in range(count or 0)]


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def _registered(name: str) -> ModelFactory:
    if name not in MODELS:
        raise InputError(unknown("model", name, [*names(), "module:factory"]))
    return MODELS.get(name)


def _own(name: str) -> ModelFactory:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"model {name!r} cannot be imported: {error}") from None
    if not callable(factory):
        raise InputError(f"model {name!r} is a {type(factory).__name__}, which cannot be called")
    return factory


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        weights: Mapping[str, Tensor]
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"weights-file {str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
    except Exception as error:  # torch raises pickle's own errors for what is no weights file
        raise InputError(f"weights-file {str(path)!r} holds no weights: {str(error).splitlines()[0]}") from None
    own = model.state_dict()
    head = {name for name in list(own)[-2:] if name in weights and weights[name].shape != own[name].shape}
    unfit = [n for n in own if n not in head and (n not in weights or weights[n].shape != own[n].shape)]
    unfit += [name for name in weights if name not in own]
    if unfit:
        raise InputError(f"weights-file {str(path)!r} is of another model: {', '.join(unfit[:3])} do not fit")
    if head:
        log(INFO, "%s has another number of classes: the last layer keeps its initial weights", path.name)
    model.load_state_dict({name: own[name] if name in head else weights[name] for name in own})
