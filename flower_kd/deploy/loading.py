"""A node's trained model from a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from flower_kd import folders, models
from flower_kd.errors import InputError
from flower_kd.models import pruning
from flower_kd.models.card import CARDS_FILE, Cards, ModelCard, weights_file


def load_model(run: str | Path, node: int | str, *, best: bool = False) -> nn.Module:
    """Return a node's model on the CPU, in evaluation mode: from normalized images to logits.

    Of a network with two heads these are the logits of head 2; the attribute `local` is the network with head 1.

    Parameters
    ----------
    run : path
        The folder of a finished run, a copy of its `models` folder, or the `state-dir` of a device.
    node : int or str
        The node's vertex, or its name if the graph has names.
    best : bool
        The model with the lowest loss on the node's validation samples, instead of the final one.

    Raises
    ------
    InputError
        If there is no such model, or its file or its factory cannot be used.
    """
    folder, vertex, cards = _found(Path(run), node)
    if best and vertex not in cards.best:
        some = f" (allowed: {_ranges(sorted(cards.best))})" if cards.best else ""
        raise InputError(
            f"{str(run)!r} has no best model of node {node}{some}: nodes keep one if validation-share is above 0"
        )
    card = cards.of[vertex]
    model = models.build(card.factory, card.classes, card.shape, two_heads=card.two_heads)
    path = folder / weights_file(vertex, best=best)
    try:
        weights = pruning.from_file(load_file(path), model.state_dict())
        _check(weights, model)
        model.load_state_dict(weights)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"model {str(path)!r} cannot be read: {_line(error)}") from None
    except RuntimeError as error:  # names or shapes of tensors
        raise InputError(
            f"the weights in {str(path)!r} do not fit model {card.factory!r}, which may have changed since: "
            f"{_line(error)}"
        ) from None
    return model.eval()


def _check(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise ValueError for what `load_state_dict` takes silently: another dtype, values that are not finite."""
    for name, tensor in model.state_dict().items():
        found = weights.get(name, tensor)
        if found.dtype != tensor.dtype:
            raise ValueError(f"{name!r} is {found.dtype}, not {tensor.dtype}")
        if not torch.isfinite(found).all():
            raise ValueError(f"{name!r} has NaN or Inf")


def load_card(run: str | Path, node: int | str) -> ModelCard:
    """Return how a node's models are used: the shape and normalization of its input, the names of its labels.

    Parameters
    ----------
    run : path
        The folder of a finished run, a copy of its `models` folder, or the `state-dir` of a device.
    node : int or str
        The node's vertex, or its name if the graph has names.

    Raises
    ------
    InputError
        If there is no such model, or its description cannot be read.
    """
    _, vertex, cards = _found(Path(run), node)
    return cards.of[vertex]


def _found(run: Path, node: int | str) -> tuple[Path, int, Cards]:
    """Return the folder of the models, the node's vertex, which has a card, and all cards."""
    run = folders.expanded(run)
    folder = _folder(run)
    cards = _cards(folder / CARDS_FILE)
    by_number = {str(vertex): vertex for vertex in cards.of}
    vertex = cards.names.get(str(node), by_number.get(str(node), -1))
    if vertex not in cards.of:
        known = ", ".join([_ranges(sorted(cards.of)), *cards.names])
        raise InputError(f"{str(run)!r} has no model of node {str(node)[:40]} (allowed: {known})")
    return folder, vertex, cards


def _folder(run: Path) -> Path:
    """Return the folder with the models of a finished run; raises InputError if there is none."""
    if not run.is_dir():
        raise InputError(f"{str(run)!r} is not a folder, but must be the results folder of a run")
    if (run / CARDS_FILE).is_file():
        return run
    if (run / folders.NODE_MARKER).is_file():
        if not (run / folders.MODELS / CARDS_FILE).is_file():
            raise InputError(f"{str(run)!r} contains no model yet: its node has not finished a round")
        return run / folders.MODELS
    marker = folders.read_marker(run)
    if marker is not None and marker.kind != "run":
        some = f", such as {str(run / folders.RUNS / marker.runs[0])!r}" if marker.runs else ""
        raise InputError(f"{str(run)!r} contains a {marker.kind}: name one of its runs{some}")
    if not folders.has_summary(run):
        if marker is not None:
            raise InputError(f"{str(run)!r} contains an unfinished run: models are kept when it is finished")
        raise InputError(f"{str(run)!r} does not contain a run")
    if not (run / folders.MODELS / CARDS_FILE).is_file():
        raise InputError(
            f"{str(run)!r} contains no models: they are on the run's nodes, or the run is of an older version"
        )
    return run / folders.MODELS


def _cards(path: Path) -> Cards:
    try:
        return Cards.from_toml(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {_line(error)}") from None


def _ranges(vertices: list[int]) -> str:
    """Return vertices as text: 0 to 7, 9."""
    runs: list[list[int]] = []
    for vertex in vertices:
        if runs and vertex == runs[-1][-1] + 1:
            runs[-1].append(vertex)
        else:
            runs.append([vertex])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
