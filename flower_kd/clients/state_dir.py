"""A device's own folder, `state-dir` in its node config: a node's states, and its model after each round.

Its process may be killed at any instant, and started again on a machine whose clock has changed:

- `.flower-kd-node.json` says whose folder it is, and what the server said when the current part of the run began;
- `runs/NUMBER-RUN/STAGE/` has the node's states after its last three rounds (`NodeFiles`), for the newest runs only;
- `models/` has the model of its last finished round, and the best by validation, as a finished run has them;
- `noised-messages.json` has how many messages with noise it has sent in each run, of all runs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context
from safetensors.torch import save

from flower_kd import folders
from flower_kd.clients import state
from flower_kd.clients.node import Node
from flower_kd.clients.node_files import BEST, STATE, NodeFiles
from flower_kd.errors import InputError
from flower_kd.models import pruning
from flower_kd.models.card import CARDS_FILE, Cards, Score, weights_file
from flower_kd.protocol import ALONE, Greeting
from flower_kd.wire import noise

KEY = "state-dir"  # in the node config
KEPT_RUNS = 3


class StateDir:
    """The folder of one node; of its states nothing is read before the node joins a run.

    Parameters
    ----------
    folder : Path
        Must exist: a folder that is made on the fly would hide that a disk is not mounted.
    vertex : int
        The node's vertex; 0 if it only has a name.
    name : str
        The node's name; empty if it has none.

    Raises
    ------
    InputError
        If the folder cannot be used.
    """

    def __init__(self, folder: Path, vertex: int, name: str = "") -> None:
        self.folder, self.vertex, self.name = folder, max(vertex, 0), name
        self._label = name or str(vertex)
        if not folder.exists():
            raise InputError(f"{KEY} {str(folder)!r} does not exist: create the folder, or mount its disk")
        if not folder.is_dir():
            raise InputError(f"{KEY} {str(folder)!r} is not a folder")
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise InputError(f"{KEY} {str(folder)!r} cannot be written: no permission, or a read-only disk")
        self._marker = self._read_marker()
        owner = self._marker.get("node", self._label)
        if owner != self._label:
            raise InputError(
                f"{KEY} {str(folder)!r} belongs to node {owner!r}, not to node {self._label!r}: each node needs a "
                "folder of its own"
            )
        if not self._marker:
            taken = next((name for name in (folders.MODELS, folders.RUNS) if (folder / name).exists()), None)
            if taken:
                raise InputError(
                    f"{KEY} {str(folder)!r} has {taken!r}, which no node wrote there: choose another folder, or move "
                    "that one"
                )

    @classmethod
    def of(cls, context: Context) -> StateDir | None:
        """Return the folder that a node config names, if it does; raises InputError if it cannot be used."""
        config = context.node_config
        found = config.get(KEY)
        if found is None:
            return None
        if not isinstance(found, str) or not found:
            raise InputError(f"{KEY} = {found!r} in the node config must be a folder")
        folder = folders.expanded(found).absolute()
        data = config.get("data-dir")
        if isinstance(data, str) and data and folder.is_relative_to(folders.expanded(data).absolute()):
            raise InputError(f"{KEY} {str(folder)!r} is inside data-dir {data!r}: choose another folder")
        vertex = config.get("partition-id", -1)
        return cls(folder, vertex if isinstance(vertex, int) else -1, str(config.get("name", "")))

    def files(self, greeting: Greeting, run_id: int) -> DeviceFiles:
        """Return the files of the part of a run that a greeting is about; the run has Flower's id if no other."""
        return DeviceFiles(self, self._run_folder(_run_name(greeting, run_id)), greeting.stage or "run")

    def claim(self, greeting: Greeting, run_id: int) -> None:
        """Make a part of a run the current one, and remove the states of old runs.

        To be called when the node begins to train in it, after the round of its greeting: a node that only asks to
        join changes nothing.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        record = {**greeting.to_record(), "server-round": 0}  # it moves on with the rounds
        marker = {"node": self._label, "run-id": str(run_id), "greeting": record}
        # Of an earlier attempt, or of rounds that are repeated: they must not pass for the newest.
        self.files(greeting, run_id).forget_after(greeting.server_round)
        folders.replace_file(self.folder / folders.NODE_MARKER, json.dumps(marker).encode(), durable=True)
        self._marker = marker
        current = self._run_folder(_run_name(greeting, run_id))
        others = [folder for _, folder in sorted(self._runs().items()) if folder != current]
        for folder in others[: 1 - KEPT_RUNS]:
            folders.remove_states(folder)

    def noised_messages(self, greeting: Greeting, run_id: int) -> int:
        """Return how many messages with noise the node has sent in a run; raises InputError if that cannot be read."""
        return int(self._noised().get(_run_name(greeting, run_id), {}).get("messages", 0))

    def count_noised_message(self, greeting: Greeting, run_id: int, wire_noise: str) -> None:
        """Count one more message with noise; to be called before it is sent.

        Raises
        ------
        InputError
            If the count so far cannot be read.
        OSError
            If the new one cannot be written.
        """
        runs, name = self._noised(), _run_name(greeting, run_id)
        runs[name] = {noise.KEY: wire_noise, "messages": runs.get(name, {}).get("messages", 0) + 1}
        folders.replace_file(self.folder / folders.NOISED_MESSAGES, json.dumps(runs, indent=2).encode(), durable=True)

    def _noised(self) -> dict[str, dict[str, Any]]:
        """Return the noise and the number of messages of each run, by its token."""
        found = _read_json(self.folder / folders.NOISED_MESSAGES) or {}
        if not all(isinstance(run, dict) and type(run.get("messages")) is int for run in found.values()):
            raise InputError(f"{str(self.folder / folders.NOISED_MESSAGES)!r} cannot be read: it has another form")
        return found

    def current(self, run_id: int) -> Greeting | None:
        """Return the greeting of the current part of a run; None if another run is the last one here."""
        if self._marker.get("run-id") != str(run_id):
            return None
        return Greeting.from_record(ConfigRecord(self._marker["greeting"]))

    def _read_marker(self) -> dict:
        found = _read_json(self.folder / folders.NODE_MARKER)
        if found is not None and not (isinstance(found.get("node"), str) and isinstance(found.get("greeting"), dict)):
            raise InputError(f"{str(self.folder / folders.NODE_MARKER)!r} cannot be read: it has another form")
        return found or {}

    def _run_folder(self, name: str) -> Path:
        """Return the folder of a run, which may not exist yet: runs are numbered, as clocks may be wrong."""
        runs, name = self._runs(), folders.file_name_of(name)
        found = next((folder for folder in runs.values() if folder.name.partition("-")[2] == name), None)
        return found or self.folder / folders.RUNS / f"{max(runs, default=0) + 1}-{name}"

    def _runs(self) -> dict[int, Path]:
        """Return the folders of runs by number."""
        numbered = [(path.name.partition("-")[0], path) for path in (self.folder / folders.RUNS).glob("*-*")]
        return {int(number): path for number, path in numbered if number.isdecimal()}


def _run_name(greeting: Greeting, run_id: int) -> str:
    """Return the name of the run that a greeting is about; it has Flower's id if it has no other."""
    return greeting.token or f"flower-{run_id}"


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file, None if there is no such file; raises InputError if it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it has another form")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())[:200]}") from None


class DeviceFiles(NodeFiles):
    """States of a node in its own folder, where its model is published whenever a state is saved.

    Parameters
    ----------
    home : StateDir
        The node's folder.
    run : Path
        Of the run, in that folder.
    stage : str
        The part of the run. While nodes train alone for comparison, models of an earlier run stay.
    """

    def __init__(self, home: StateDir, run: Path, stage: str) -> None:
        super().__init__(run / folders.file_name_of(stage), durable=True)
        self._home, self._published = home, stage != ALONE

    def save(self, node: Node, server_round: int, next_step: int = 0) -> None:
        """Save a node's state after a round, and publish its model; raises OSError if this fails."""
        super().save(node, server_round, next_step)
        self._publish(node)

    def save_best(self, node: Node, score: Score) -> None:
        """Save a node's model as the best so far, and publish it; raises OSError if this fails."""
        super().save_best(node, score)
        self._publish(node)

    def forget_after(self, server_round: int) -> None:
        """Remove states and best models of later rounds; raises OSError if this fails."""
        self._forget_after(server_round, STATE)
        self._forget_after(server_round, BEST)

    def _publish(self, node: Node) -> None:
        """Write a node's model, the best so far if that is another one by now, and how they are used."""
        if not self._published or node.card is None:
            return
        home, folder, best = self._home, self._home.folder / folders.MODELS, self._last_best()
        folders.make(folder, durable=True)
        folders.remove_partial_files(folder)
        parts = {weights_file(home.vertex): save(state.copies(pruning.to_file(node.model.state_dict())))}
        names = {home.name: home.vertex} if home.name else {}
        cards = Cards({home.vertex: node.card}, names, {home.vertex: best[0]} if best else {}).to_toml().encode()
        path = folder / CARDS_FILE
        if not path.exists() or path.read_bytes() != cards:
            parts |= {weights_file(home.vertex, best=True): save(best[1])} if best else {}
            parts[CARDS_FILE] = cards  # last: if the process is killed before, all is written next time
        for name, content in parts.items():
            folders.replace_file(folder / name, content, durable=True)
        current = {weights_file(home.vertex), *([weights_file(home.vertex, best=True)] if best else [])}
        for other in folder.glob("node-*.safetensors"):  # of an earlier run
            if other.name not in current:
                other.unlink(missing_ok=True)
