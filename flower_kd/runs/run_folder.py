"""A run's results folder, from the check before the run to the last file after it.

At any time the folder contains one run: the claimed one, or the earlier one it replaces. The marker and the summary
identify it, and a checkpoint after each round allows an interrupted run to be resumed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import networkx as nx

from flower_kd import folders
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.folders import CHECKPOINT, MARKER, Marker
from flower_kd.protocol import ALONE, Greeting, Hello
from flower_kd.runs import checkpoint, final_models, results
from flower_kd.runs.checkpoint import Checkpoint
from flower_kd.runs.identity import NOT_OF_THE_RUN
from flower_kd.runs.results import RunRecord, Summary
from flower_kd.strategies.network import Network
from flower_kd.strategies.node_records import NodeMetrics
from flower_kd.strategies.resumable import State as Arrays

State = Literal["none", "finished", "unfinished", "other"]

# From a run and its baseline, as far as they went, to the contents of picture files by name.
Draw = Callable[[RunRecord | None, RunRecord | None], dict[str, bytes]]


def path_of(config: RunConfig) -> Path:
    """Return the absolute path of a run's results folder; raises InputError if it cannot be written to."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = folders.DEFAULT / folders.file_name_of(f"{stamp}-{config.strategy}-seed{config.seed}")
    path = folders.expanded(config.output_dir or default).absolute()
    folders.check_writable(path)
    check_outside_data(path, config.dataset)
    return path


def check_outside_data(path: Path, dataset: str) -> None:
    """Raise InputError if a results folder is inside a local data folder: the results would change its content."""
    data = folders.expanded(dataset).absolute()
    if data.is_dir() and path.is_relative_to(data):
        raise InputError(f"output-dir {str(path)!r} is inside the data folder {str(data)!r}: choose another folder")


def state(path: Path, identity: str) -> State:
    """Return whether a folder contains nothing, the run with this identity (finished or not), or something else."""
    marker = folders.read_marker(path)
    if marker is None:
        return "none"
    if marker.kind != "run" or marker.identity != identity:
        return "other"
    return "finished" if results.is_finished(path) else "unfinished"


class RunFolder:
    """The folder of one run, a context manager that keeps other processes from writing to it.

    Parameters
    ----------
    path : Path
        Absolute.
    config : RunConfig
        The config of the run; `overwrite` and `resume` decide what happens to earlier results.
    identity : str
        The hash of everything that determines the run's figures (`flower_kd.runs.identity`).
    draw : callable (RunRecord or None, RunRecord or None) -> dict
        Draws the run and its baseline: picture files by name. By default, there are none.

    Raises
    ------
    InputError
        If the folder contains results that may not be replaced, files that flower-kd did not write, or a damaged
        checkpoint, or is in use by another process. Nothing is changed in that case.
    """

    def __init__(self, path: Path, config: RunConfig, identity: str, draw: Draw = lambda record, baseline: {}) -> None:
        self.path = path
        self._draw = draw
        self._config = config
        self.identity = identity
        self._token = secrets.token_hex(8)
        self._resumed: Checkpoint | None = None
        self._history_bytes: dict[str, int] = {}
        self._history_columns: dict[str, list[str]] = {}
        self._seconds: dict[str, float] = {}
        self._begun = False
        self._lock = ExitStack()

    def __enter__(self) -> RunFolder:
        if folders.read_marker(self.path) is not None:
            self._lock.enter_context(folders.locked(self.path))
        try:
            self._check()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def finished(self) -> Summary | None:
        """The summary of the run if it is already finished and `resume` is set."""
        return results.read(self.path).summary if self._state() == "finished" and self._config.resume else None

    @property
    def stage(self) -> str:
        """The stage in which a run is resumed; empty in a new run."""
        return self._resumed.stage if self._resumed else ""

    def rounds_done(self, stage: str) -> int:
        """Return the round after which a stage is resumed; 0 if it is new."""
        return self._resumed.server_round if self._resumed and self._resumed.stage == stage else 0

    def strategy_state(self) -> Arrays:
        """Return the state from which the strategy is resumed."""
        assert self._resumed is not None
        return self._resumed.strategy

    def greeting(self, stage: str, greeting: Greeting) -> Greeting:
        """Return a strategy's greeting that also tells nodes about the folder when a stage begins or is resumed."""
        done = self.rounds_done(stage)
        return replace(greeting, fresh=done == 0, token=self._token, stage=stage, server_round=done)

    def begin(self, graph: nx.Graph, stage: str, network: Network) -> None:
        """Claim the folder for the run after its nodes have joined and before any training.

        Raises
        ------
        InputError
            If the folder cannot be written to, or nodes do not match the run to resume.
        """
        if not self._begun:
            self._claim(graph)
        if self.rounds_done(stage):
            self._restore(stage, network)
        self._begun = True

    def _claim(self, graph: nx.Graph) -> None:
        if folders.read_marker(self.path) is None:
            self._lock.enter_context(folders.locked(self.path))
            self._check()  # another process may have been faster
        # Permission to overwrite or resume is for this time only: the config file may be run again.
        config = self._config.to_dict() | {"overwrite": False, "resume": False}
        parts = {
            MARKER: Marker("run", self.identity, self._token).to_bytes(),
            results.CONFIG_FILE: results.to_toml(config).encode(),
            results.GRAPH_FILE: results.graph_to_bytes(graph),
        }
        folders.write(self.path, parts, replace_results=self._resumed is None)

    def _restore(self, stage: str, network: Network) -> None:
        """Restore the network from the checkpoint; raises InputError if its nodes do not match the run."""
        assert self._resumed is not None
        for vertex, hello in sorted(network.hellos.items()):
            before, now = self._resumed.nodes[vertex], _invariants(hello)
            changed = next((name for name in now if name in before and before[name] != now[name]), None)
            if changed is not None:
                raise InputError(
                    f"the run in {str(self.path)!r} cannot be resumed: node {vertex} reports {changed} = "
                    f"{now[changed]}, but reported {before[changed]} when the run began"
                )
        network.load_state_dict(self._resumed.network)
        network.metrics.update(self.metrics(stage))
        for vertex, hello in sorted(network.hellos.items()):
            saved = int(network.saved_rounds[vertex])
            if hello.restored_round < saved:
                found = f"only that of round {hello.restored_round}" if hello.restored_round else "none"
                raise InputError(
                    f"the run in {str(self.path)!r} cannot be resumed: node {vertex} saved its state in round {saved}, "
                    f"but found {found}; devices keep their states in their state-dir, nodes on the server's machine "
                    f"without one in {str(self.path / CHECKPOINT)!r}, if output-dir is an absolute path"
                )

    def metrics(self, stage: str) -> dict[tuple[int, int], NodeMetrics]:
        """Return the metrics of a stage's finished rounds in a resumed run."""
        assert self._resumed is not None
        path, size = self.path / _history_file(stage), self._resumed.history_bytes.get(stage, 0)
        try:
            with path.open("rb") as file:
                content = file.read(size)
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None
        if len(content) < size:
            raise InputError(f"{str(path)!r} is damaged: it has {len(content)} bytes where {size} were written")
        return results.metrics_of(content, path)

    def seconds(self, stage: str) -> float:
        """Return how long a stage took before the run was interrupted."""
        return self._resumed.seconds.get(stage, 0.0) if self._resumed else 0.0

    def save_round(self, stage: str, server_round: int, network: Network, strategy: Arrays, seconds: float) -> None:
        """Save a finished round: its history, and a checkpoint from which the run can be resumed.

        Parameters
        ----------
        stage, server_round : str, int
            The finished round.
        network : Network
            The network after the round.
        strategy : dict of ndarray
            The strategy's state after the round.
        seconds : float
            Duration of the stage so far.

        Raises
        ------
        InputError
            If the folder cannot be written.
        """
        self._append_history(stage, server_round, network)
        self._seconds[stage] = seconds
        done = Checkpoint(
            identity=self.identity,
            stage=stage,
            server_round=server_round,
            seconds=self._seconds,
            history_bytes=self._history_bytes,
            nodes=[_invariants(network.hellos[vertex]) for vertex in sorted(network.hellos)],
            strategy=strategy,
            network=network.state_dict(),
        )
        folders.write(self.path / CHECKPOINT, {checkpoint.SERVER_FILE: done.to_bytes()})

    def _append_history(self, stage: str, server_round: int, network: Network) -> None:
        keys = [(server_round, vertex) for vertex in network.hellos]
        of_round = {key: network.metrics[key] for key in keys if key in network.metrics}
        path = self.path / _history_file(stage)
        columns = self._history_columns.get(stage)
        rows = results.history(of_round)
        if columns is None or not set(rows.columns) <= set(columns):
            # The first round, or the first with a new metric: the file needs a new header.
            rows = results.history(network.metrics)
            self._history_columns[stage] = list(rows.columns)
            content = results.to_csv(rows)
            folders.write(self.path, {path.name: content})
            self._history_bytes[stage] = len(content)
        else:
            content = results.to_csv(rows.reindex(columns=columns), header=False)
            self._history_bytes[stage] = folders.append(path, content, self._history_bytes[stage])

    def finish(self, record: RunRecord, baseline: RunRecord | None, summary: Summary) -> None:
        """Write what a finished run leaves; raises InputError if it cannot be written."""
        final_models.write(self.path, record)
        results.write(self.path, record, baseline, summary, self._draw(record, baseline))
        try:
            folders.remove_checkpoint(self.path)
        except OSError as error:
            raise InputError(f"output-dir {str(self.path)!r} cannot be cleared: {error}") from None

    def leave_unfinished(self, record: RunRecord | None, baseline: RunRecord | None) -> None:
        """Write the partial results of a run that ends early; raises InputError if they cannot be written."""
        if self._begun:
            results.write_unfinished(self.path, record, baseline, self._draw(record, baseline))

    def _state(self) -> State:
        return state(self.path, self.identity)

    def _check(self) -> None:
        """Check what the folder contains, and refuse to replace what must be kept."""
        folders.check_foreign_files(self.path, "run")
        found, marker = self._state(), folders.read_marker(self.path)
        if found == "none" or self._config.overwrite:
            return
        if found == "other" and self._config.resume and marker is not None and marker.kind == "run":
            raise InputError(
                f"output-dir {str(self.path)!r} contains another run, which cannot be resumed with "
                f"{self._difference()}: choose another folder, or replace it with --overwrite (overwrite=true)"
            )
        if found == "other" or not self._config.resume:
            raise folders.refusal(self.path, _description(found, marker))
        assert marker is not None
        if found == "unfinished":
            self._token = marker.token
            self._resumed = checkpoint.read(self.path / CHECKPOINT)
            if self._resumed is not None:
                self._history_bytes, self._seconds = dict(self._resumed.history_bytes), dict(self._resumed.seconds)

    def _difference(self) -> str:
        """Return how the requested run differs from the one in the folder."""
        try:
            before, now = results.read_config(self.path).to_dict(), self._config.to_dict()
        except InputError:  # the process was killed before it wrote the config
            return "this config"
        changed = [key for key in now if key not in NOT_OF_THE_RUN and now[key] != before[key]]
        if not changed:
            return "another number of nodes or a changed file (graph, data, weights or model)"
        return ", ".join(f"{key} = {now[key]!r} (it has {before[key]!r})" for key in changed)


def _description(found: State, marker: Marker | None) -> str:
    """Return what a folder contains, as part of a sentence."""
    if marker is not None and marker.kind != "run":
        return f"a {marker.kind}"
    return {"finished": "a finished run", "unfinished": "an unfinished run"}.get(found, "another run")


def _history_file(stage: str) -> str:
    return "history-silo.csv" if stage == ALONE else "history.csv"


def _invariants(hello: Hello) -> dict[str, Any]:
    """Return the parts of a handshake that must not change when a run is resumed."""
    return {
        "classes": hello.classes,
        "model": hello.model,
        "parameters": hello.parameters,
        "reference rows": hello.reference_rows,
        "reference set (SHA-256)": hello.fingerprint,
    }
