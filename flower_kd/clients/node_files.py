"""A node's states on disk, so that a run can be resumed after its server or machine was stopped."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from flower_kd import folders
from flower_kd.clients import state
from flower_kd.clients.node import Node
from flower_kd.errors import InputError

# The server may have been stopped before it finished a node's last round.
KEPT_ROUNDS = 2
SUFFIX = ".safetensors"


class NodeFiles:
    """The saved states of one node after its last rounds.

    Parameters
    ----------
    folder : Path
        Used by this node only; created when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, node: Node, server_round: int) -> None:
        """Save a node's state after a round; raises OSError if this fails."""
        self._folder.mkdir(parents=True, exist_ok=True)
        folders.replace_file(self._path(server_round), save(state.to_tensors(node)))
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
        return kept[-1]

    def _rounds(self) -> list[int]:
        """Return the rounds with saved states, in order."""
        names = (
            path.name.removeprefix("round-").removesuffix(SUFFIX) for path in self._folder.glob(f"round-*{SUFFIX}")
        )
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, server_round: int) -> Path:
        return self._folder / f"round-{server_round}{SUFFIX}"
