"""A node's states and best models on disk, so that a run can be resumed after its server or machine was stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from logging import WARNING
from pathlib import Path

from flwr.common.logger import log
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from flower_kd import folders
from flower_kd.clients import state
from flower_kd.clients.node import Node
from flower_kd.errors import InputError
from flower_kd.models import pruning
from flower_kd.models.card import ModelCard, Score

# The server may have been stopped before it finished a node's last round; with pipeline = 1, its last two.
KEPT_ROUNDS = 3
STATE, BEST = "round", "best"  # what files contain, and how their names begin
SUFFIX = ".safetensors"
CARD, SCORE, NEXT_STEP = "card", "score", "next-step"  # keys of the metadata


class NodeFiles:
    """The saved states of one node after its last three rounds, in `round-N.safetensors`, and its last best models.

    Parameters
    ----------
    folder : Path
        Used by this node and one run only; created when needed.
    durable : bool
        Whether each file must outlast a loss of power.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._durable = durable

    @classmethod
    def of(cls, run: Path, stage: str, label: object) -> NodeFiles:
        """Return the files of a node in a run's folder: its label is its name, or else its partition-id."""
        return cls(run / folders.CHECKPOINT / folders.file_name_of(stage) / folders.file_name_of(f"node-{label}"))

    def save(self, node: Node, server_round: int, next_step: int = 0) -> None:
        """Save a node's state after a round, before a step of the run; raises OSError if this fails."""
        metadata = {NEXT_STEP: str(next_step)} | ({CARD: node.card.to_json()} if node.card is not None else {})
        self._write(STATE, server_round, save(state.to_tensors(node), metadata))

    def save_best(self, node: Node, score: Score) -> None:
        """Save a node's model as the best so far; raises OSError if this fails."""
        weights = state.copies(pruning.to_file(node.model.state_dict()))
        self._write(BEST, score.round, save(weights, {SCORE: json.dumps(asdict(score))}))

    def _write(self, kind: str, server_round: int, content: bytes) -> None:
        folders.make(self._folder, durable=self._durable)
        if self._durable:  # a run's folder is cleared as a whole
            folders.remove_partial_files(self._folder)
        folders.replace_file(self._path(server_round, kind), content, durable=self._durable)
        for earlier in self._rounds(kind)[:-KEPT_ROUNDS]:
            self._path(earlier, kind).unlink(missing_ok=True)

    def load(self, node: Node, server_round: int) -> int:
        """Restore a node to its state after a round, or after the last earlier round in which it took part.

        Returns
        -------
        int
            That round; 0 if there is none and the node is unchanged.

        Raises
        ------
        InputError
            If the file cannot be read, or is of another model or optimizer.
        """
        kept = [number for number in self._rounds() if number <= server_round]
        if not kept:
            return 0
        path = self._path(kept[-1])
        try:
            state.from_tensors(node, load_file(path))
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"its state {str(path)!r} cannot be read: {_line(error)}") from None
        self._forget_after(server_round, STATE)
        return kept[-1]

    def position(self) -> tuple[int, int] | None:
        """Return the round of the last state and the step of the run that follows it; None if there is no state.

        Raises
        ------
        InputError
            If the file cannot be read.
        """
        rounds = self._rounds()
        if not rounds:
            return None
        path = self._path(rounds[-1])
        try:
            with safe_open(path, framework="pt") as file:
                return rounds[-1], int((file.metadata() or {})[NEXT_STEP])
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise InputError(f"its state {str(path)!r} cannot be read: {_line(error)}") from None

    def load_best(self, server_round: int) -> tuple[Score, dict[str, Tensor]] | None:
        """Return the score and the weights, as in a file, of the best model up to a round, and forget later ones.

        Raises
        ------
        InputError
            If the file cannot be read.
        """
        self._forget_after(server_round, BEST)
        try:
            return self._last_best()
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            path = self._path(self._rounds(BEST)[-1], BEST)
            raise InputError(f"its best model {str(path)!r} cannot be read: {_line(error)}") from None

    def forget_best(self) -> None:
        """Remove the best models so far; raises OSError if this fails."""
        self._forget_after(0, BEST)

    def _forget_after(self, server_round: int, kind: str) -> None:
        """Remove the files of rounds that are repeated."""
        for later in [number for number in self._rounds(kind) if number > server_round]:
            self._path(later, kind).unlink(missing_ok=True)

    def final_model(self, saved_round: int) -> tuple[ModelCard, dict[str, Tensor]] | None:
        """Return the card and the weights of the last saved state, as in a file.

        Parameters
        ----------
        saved_round : int
            The round whose state the node was to save; it may have saved a later one if its reply was lost.

        Returns
        -------
        tuple or None
            None if there is no such state, it has no card, or it cannot be read.
        """
        rounds = self._rounds()
        if not rounds or rounds[-1] < saved_round:
            return None
        path = self._path(rounds[-1])
        try:
            with safe_open(path, framework="pt") as file:
                card = (file.metadata() or {}).get(CARD)
            weights = self._tensors(path, state.MODEL_PREFIX)
            return (ModelCard.from_json(card), weights) if card is not None else None
        except (OSError, SafetensorError, ValueError) as error:
            log(WARNING, "%r cannot be read: %s", str(path), _line(error))
            return None

    def best_model(self, lowest_loss: float) -> tuple[Score, dict[str, Tensor]] | None:
        """Return the score and the weights of the best model, as in a file.

        Parameters
        ----------
        lowest_loss : float
            The lowest that the node reported.

        Returns
        -------
        tuple or None
            None if a better model could not be saved, or the file cannot be read.
        """
        try:
            found = self._last_best()
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            log(WARNING, "the best model in %r cannot be read: %s", str(self._folder), _line(error))
            return None
        return found if found is not None and found[0].loss <= lowest_loss else None

    def _last_best(self) -> tuple[Score, dict[str, Tensor]] | None:
        rounds = self._rounds(BEST)
        if not rounds:
            return None
        with safe_open(self._path(rounds[-1], BEST), framework="pt") as file:
            score = Score(**json.loads((file.metadata() or {})[SCORE]))
            return score, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def _tensors(self, path: Path, prefix: str) -> dict[str, Tensor]:
        """Return the tensors in a file whose names begin with a prefix, by the rest of their names."""
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}

    def _rounds(self, kind: str = STATE) -> list[int]:
        """Return the rounds with files of a kind, in order."""
        found = self._folder.glob(f"{kind}-*{SUFFIX}")
        names = (path.name.removeprefix(f"{kind}-").removesuffix(SUFFIX) for path in found)
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, server_round: int, kind: str = STATE) -> Path:
        return self._folder / f"{kind}-{server_round}{SUFFIX}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
