"""A node's trained model from a run's folder."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from flower_kd import folders, models
from flower_kd.errors import InputError
from flower_kd.models.card import CARDS_FILE, Cards, ModelCard, weights_file


def load_model(run: str | Path, node: int | str) -> nn.Module:
    """Return a node's final model on the CPU, in evaluation mode: from normalized images to logits.

    Parameters
    ----------
    run : path
        The folder of a finished run, or a copy of its `models` folder.
    node : int or str
        The node's vertex, or its name if the graph has names.

    Raises
    ------
    InputError
        If there is no such model, or its file or its factory cannot be used.
    """
    folder, vertex, card = _found(Path(run), node)
    model = models.build(card.factory, card.classes, card.shape)
    path = folder / weights_file(vertex)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"model {str(path)!r} cannot be read: {_line(error)}") from None
    except RuntimeError as error:  # names or shapes of tensors
        raise InputError(
            f"the weights in {str(path)!r} do not fit model {card.factory!r}, which may have changed since: "
            f"{_line(error)}"
        ) from None
    return model.eval()


def load_card(run: str | Path, node: int | str) -> ModelCard:
    """Return how a node's final model is used: the shape and normalization of its input, the names of its labels.

    Parameters
    ----------
    run : path
        The folder of a finished run, or a copy of its `models` folder.
    node : int or str
        The node's vertex, or its name if the graph has names.

    Raises
    ------
    InputError
        If there is no such model, or its description cannot be read.
    """
    return _found(Path(run), node)[2]


def _found(run: Path, node: int | str) -> tuple[Path, int, ModelCard]:
    """Return the folder of the models, the node's vertex, and its card."""
    run = run.expanduser()
    folder = _folder(run)
    cards = _cards(folder / CARDS_FILE)
    vertex = cards.names.get(str(node), int(node) if str(node).isdecimal() else -1)
    if vertex not in cards.of:
        known = ", ".join([_ranges(sorted(cards.of)), *cards.names])
        raise InputError(f"{str(run)!r} has no model of node {node} (allowed: {known})")
    return folder, vertex, cards.of[vertex]


def _folder(run: Path) -> Path:
    """Return the folder with the models of a finished run; raises InputError if there is none."""
    if not run.is_dir():
        raise InputError(f"{str(run)!r} is not a folder, but must be the results folder of a run")
    if (run / CARDS_FILE).is_file():
        return run
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
