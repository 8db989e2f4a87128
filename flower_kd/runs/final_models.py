"""The final models of a run's nodes, and the best by validation, from what they saved in its folder."""

from __future__ import annotations

from logging import INFO, WARNING
from pathlib import Path

import networkx as nx
from flwr.common.logger import log
from safetensors.torch import save

from flower_kd import folders
from flower_kd.clients.node_files import NodeFiles
from flower_kd.errors import InputError
from flower_kd.models.card import CARDS_FILE, Cards, ModelCard, Score, weights_file
from flower_kd.protocol import VALIDATION_LOSS
from flower_kd.runs.results import RunRecord


def write(run: Path, record: RunRecord) -> None:
    """Write the weights of every node that saved its state on this machine, and how they are used.

    Parameters
    ----------
    run : Path
        The run's folder.
    record : RunRecord
        The run at its end.

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
    scores: dict[int, Score] = {}
    losses = record.series(VALIDATION_LOSS)
    for vertex, hello in sorted(record.hellos.items()):
        files = NodeFiles.of(run, record.config.strategy, hello.name or hello.vertex)
        found = files.final_model(int(record.saved_rounds[vertex]))
        if found is None:
            continue
        cards[vertex], weights = found
        folders.write(run / folders.MODELS, {weights_file(vertex): save(weights)})
        lowest = min((loss for last, loss in losses[vertex].items() if last > record.head_1_round), default=None)
        if lowest is None:
            continue
        best = files.best_model(lowest)
        if best is None:
            log(WARNING, "the best model of node %d is lost: it could not be written or read", vertex)
            continue
        scores[vertex], weights = best
        folders.write(run / folders.MODELS, {weights_file(vertex, best=True): save(weights)})
    if cards:
        vertices = {name: vertex for vertex, name in nx.get_node_attributes(record.graph, "name").items()}
        names = {name: vertex for name, vertex in vertices.items() if vertex in cards}
        content = Cards(cards, names, scores).to_toml()
        folders.write(run / folders.MODELS, {CARDS_FILE: content.encode()})
    if len(cards) < len(record.hellos):
        log(
            INFO,
            "the models of %d of %d nodes stay on the nodes, each in its state-dir if it has one (without one, nodes "
            "on the server's machine save them in this folder if output-dir is an absolute path)",
            len(record.hellos) - len(cards),
            len(record.hellos),
        )
