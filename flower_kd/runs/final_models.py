"""The final models of a run's nodes, from the states that they saved in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import INFO
from pathlib import Path

import numpy as np
from flwr.common.logger import log
from safetensors.torch import save

from flower_kd import folders
from flower_kd.clients.node_files import NodeFiles
from flower_kd.errors import InputError
from flower_kd.models.card import CARDS_FILE, Cards, ModelCard, weights_file
from flower_kd.protocol import Hello


def write(
    run: Path,
    stage: str,
    hellos: Mapping[int, Hello],
    saved_rounds: Sequence[int] | np.ndarray,
    names: Mapping[str, int],
) -> None:
    """Write the weights of every node that saved its state on this machine, and how they are used.

    Parameters
    ----------
    run : Path
        The run's folder.
    stage : str
        The stage whose models are kept.
    hellos : mapping
        What the nodes said, by vertex.
    saved_rounds : sequence of int
        By vertex, the last round whose end state the node was to save.
    names : mapping
        Vertices by name, if the graph has names.

    Raises
    ------
    InputError
        If a file cannot be written.
    """
    try:
        folders.remove_models(run)  # a killed process may have left a part of them
    except OSError as error:
        raise InputError(f"output-dir {str(run)!r} cannot be cleared: {error}") from None
    cards: dict[int, ModelCard] = {}
    for vertex, hello in sorted(hellos.items()):
        found = NodeFiles.of(run, stage, hello.name or hello.vertex).final_model(int(saved_rounds[vertex]))
        if found is not None:
            cards[vertex], weights = found
            folders.write(run / folders.MODELS, {weights_file(vertex): save(weights)})
    if cards:
        content = Cards(cards, {name: vertex for name, vertex in names.items() if vertex in cards}).to_toml()
        folders.write(run / folders.MODELS, {CARDS_FILE: content.encode()})
    if len(cards) < len(hellos):
        log(
            INFO,
            "the models of %d of %d nodes stay on the nodes, which saved no states in this folder (those on the "
            "server's machine do if output-dir is an absolute path)",
            len(hellos) - len(cards),
            len(hellos),
        )
