"""A node's states on disk, so that a run can be resumed after its server or machine was stopped."""

from __future__ import annotations

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
from flower_kd.models.card import ModelCard

# The server may have been stopped before it finished a node's last round.
KEPT_ROUNDS = 2
SUFFIX = ".safetensors"
CARD = "card"  # key of the metadata


class NodeFiles:
    """The saved states of one node after its last two rounds, in `round-N.safetensors`.

    Parameters
    ----------
    folder : Path
        Used by this node and one run only; created when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, run: Path, stage: str, label: object) -> NodeFiles:
        """Return the files of a node in a run's folder: its label is its name, or else its partition-id."""
        return cls(run / folders.CHECKPOINT / folders.file_name_of(stage) / folders.file_name_of(f"node-{label}"))

    def save(self, node: Node, server_round: int) -> None:
        """Save a node's state after a round; raises OSError if this fails."""
        self._folder.mkdir(parents=True, exist_ok=True)
        metadata = {CARD: node.card.to_json()} if node.card is not None else None
        folders.replace_file(self._path(server_round), save(state.to_tensors(node), metadata))
        for earlier in self._rounds()[:-KEPT_ROUNDS]:
            self._path(earlier).unlink(missing_ok=True)

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
            raise InputError(f"its state {str(path)!r} cannot be read: {' '.join(str(error).split())[:200]}") from None
        for later in [number for number in self._rounds() if number > server_round]:
            self._path(later).unlink(missing_ok=True)  # that round is repeated: this is no longer the node's last state
        return kept[-1]

    def final_model(self, saved_round: int) -> tuple[ModelCard, dict[str, Tensor]] | None:
        """Return the card and the weights of the last saved state.

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
                names = [name for name in file.keys() if name.startswith(state.MODEL_PREFIX)]  # noqa: SIM118
                weights = {name.removeprefix(state.MODEL_PREFIX): file.get_tensor(name) for name in names}
            return (ModelCard.from_json(card), weights) if card is not None else None
        except (OSError, SafetensorError, ValueError) as error:
            log(WARNING, "%r cannot be read: %s", str(path), " ".join(str(error).split())[:200])
            return None

    def _rounds(self) -> list[int]:
        """Return the rounds with saved states, in order."""
        names = (
            path.name.removeprefix("round-").removesuffix(SUFFIX) for path in self._folder.glob(f"round-*{SUFFIX}")
        )
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, server_round: int) -> Path:
        return self._folder / f"round-{server_round}{SUFFIX}"
