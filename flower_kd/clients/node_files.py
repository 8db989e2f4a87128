"""A node's states on disk, so that a run can go on after its server, or its machine, was stopped."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from flower_kd import folders
from flower_kd.clients import state
from flower_kd.clients.node import Node
from flower_kd.errors import InputError

# The server's last round may be the one before a node's last: it was stopped while others were at work.
KEPT_ROUNDS = 2
SUFFIX = ".safetensors"


class NodeFiles:
    """The states of one node after its last rounds.

    Parameters
    ----------
    folder : Path
        Of this node alone; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, node: Node, server_round: int) -> None:
        """Keep a node as it is after a round; raises OSError if that fails."""
        self._folder.mkdir(parents=True, exist_ok=True)
        folders.replace_file(self._path(server_round), save(state.to_tensors(node)))
        for earlier in self._rounds()[:-KEPT_ROUNDS]:
            self._path(earlier).unlink(missing_ok=True)

    def load(self, node: Node, server_round: int) -> int:
        """Take a node back to where it was after a round, or the last one before it in which it took part.

        Returns
        -------
        int
            That round; 0 if there is none, and the node is left as it is.

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
        """Return the rounds whose states are kept, in their order."""
        names = (
            path.name.removeprefix("round-").removesuffix(SUFFIX) for path in self._folder.glob(f"round-*{SUFFIX}")
        )
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, server_round: int) -> Path:
        return self._folder / f"round-{server_round}{SUFFIX}"
