"""What a run leaves: summary, history and picture, whole at its end and as far as it came before."""

from __future__ import annotations

import json
import time
import tomllib
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from flower_kd import folders
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.protocol import Hello
from flower_kd.strategies import STRATEGIES, sends_to
from flower_kd.strategies.network import NodeMetrics, Participation, Traffic

# Not the working folder: under Flower that is the one in which the SuperLink was started, whenever that was.
DEFAULT_FOLDER = Path("~/flower-kd-results")
CONFIG_FILE = "config.toml"

# In nats: a mean test loss above it gives the right labels a probability that no float64 can hold.
MEANINGLESS_LOSS = 745.0


@dataclass(frozen=True)
class RunRecord:
    """All that is known of one run, at its end or where it stopped."""

    config: RunConfig
    graph: nx.Graph
    hellos: dict[int, Hello]
    metrics: dict[tuple[int, int], NodeMetrics]
    traffic: Traffic
    seconds: float
    participation: dict[int, Participation] = field(default_factory=dict)

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.hellos)

    @cached_property
    def links(self) -> np.ndarray:
        """Over how many links a node sends what it has for others, if neighbors are linked directly, [nodes].

        In a directed graph these are the edges to those that hear it; under a server there is one link, alone none.
        """
        recipient = sends_to(STRATEGIES.get(self.config.strategy))
        if recipient != "neighbors":
            return np.full(self.num_nodes, int(recipient == "server"))
        degrees = self.graph.out_degree if self.graph.is_directed() else self.graph.degree
        return np.array([degrees[vertex] for vertex in sorted(self.hellos)])

    @property
    def diverged(self) -> list[int]:
        """Vertices whose last mean test loss is above `MEANINGLESS_LOSS`; a node that has none is not among them."""
        losses = self.series("test-loss")
        return [v for v, values in losses.items() if values and values[max(values)] > MEANINGLESS_LOSS]

    def series(self, name: str) -> dict[int, dict[int, float]]:
        """Return a metric by vertex and round, for the rounds in which the node reported it."""
        found: dict[int, dict[int, float]] = {vertex: {} for vertex in sorted(self.hellos)}
        for (server_round, vertex), metrics in sorted(self.metrics.items()):
            if name in metrics.values:
                found[vertex][server_round] = metrics.values[name]
        return found

    def final(self, name: str) -> list[float]:
        """Return each node's value in the last round that has any, in the order of vertices; NaN where it has none."""
        series = self.series(name)
        last = max((server_round for values in series.values() for server_round in values), default=0)
        return [values.get(last, float("nan")) for values in series.values()]

    def history(self) -> pd.DataFrame:
        """Return what history.csv holds: a row a node a round, with what the node reported.

        `bytes-shared` is what it has sent so far over one of its links, `bytes-all-edges` over all of them.
        """
        names = sorted({name for metrics in self.metrics.values() for name in metrics.values})
        rows = [
            {"round": server_round, "vertex": vertex, **metrics.values}
            for (server_round, vertex), metrics in sorted(self.metrics.items())
        ]
        history = pd.DataFrame(rows, columns=["round", "vertex", *names])
        if "bytes-shared" in history:
            place = history.columns.get_loc("bytes-shared")
            history.insert(place, "bytes-all-edges", history["bytes-shared"] * self.links[history["vertex"]])
        return history


@dataclass(frozen=True)
class Summary:
    """What summary.json holds.

    Parameters
    ----------
    accuracy, baseline : dict
        Mean and spread (standard deviation) over nodes, and the list by vertex; `baseline` is of the nodes alone.
    bytes : dict
        Of serialized Flower messages, means over nodes but for `total`. `total`: in both directions with handshake,
        metrics and evaluation. `uplink_per_node`: all that a node sent, once for all its neighbors.
        `messages_per_edge` and `per_message`: how often a node sends over one edge in one direction in the whole run,
        and how much each time; `per_edge`: both together. `per_node`: what a node would send over all its edges if
        neighbors were linked directly, its out-degree times its bytes per edge; under a server, over that one link.
        `d_sgd_per_message`: the weights that D-SGD would send; `d_sgd_same_frequency_per_edge`: as often as this run
        did; `d_sgd_per_edge`: in every step.
    seconds : dict
        Wall time, `total` with the handshake.
    participation : list of dict
        Of each vertex: `due`, in how many train exchanges it should have taken part; `taken`, in how many it did;
        `reasons`, how often each of them left it out.
    diverged : list of int
        Vertices whose test loss came to mean nothing (`MEANINGLESS_LOSS`).
    """

    strategy: str
    num_nodes: int
    rounds: int
    seed: int
    accuracy: dict[str, Any]
    bytes: dict[str, Any]
    seconds: dict[str, float]
    models: list[str] = field(default_factory=list)
    topology: str = ""
    dataset: str = ""
    baseline: dict[str, Any] | None = None
    participation: list[dict[str, Any]] = field(default_factory=list)
    diverged: list[int] = field(default_factory=list)

    def times_less(self, d_sgd: str) -> float:
        """Return how many times as much D-SGD sends over an edge, by the name of its figure; NaN where nothing goes."""
        return self.bytes[d_sgd] / self.bytes["per_edge"] if self.bytes["per_edge"] else nan


def has_baseline(config: RunConfig) -> bool:
    """Return whether a run also trains each node alone."""
    return config.baseline == "silo" and config.strategy != "silo"


def summarize(record: RunRecord, baseline: RunRecord | None) -> Summary:
    """Return a run's figures."""
    config = record.config
    steps = config.num_server_rounds * config.local_steps
    hellos = [record.hellos[vertex] for vertex in sorted(record.hellos)]
    traffic, weights = record.traffic, float(np.mean([hello.weights_bytes for hello in hellos]))
    messages = float(traffic.messages.mean())
    return Summary(
        strategy=config.strategy,
        num_nodes=record.num_nodes,
        rounds=config.num_server_rounds,
        seed=config.seed,
        accuracy=_over_nodes(record.final("test-accuracy")),
        bytes={
            "total": int(traffic.up.sum() + traffic.down.sum()),
            "uplink_per_node": float(traffic.up.mean()),
            "messages_per_edge": messages,
            "per_message": float(traffic.shared.mean()) / messages if messages else 0.0,
            "per_edge": float(traffic.shared.mean()),
            "per_node": float((traffic.shared * record.links).mean()),
            "d_sgd_per_message": weights,
            "d_sgd_same_frequency_per_edge": weights * messages,
            "d_sgd_per_edge": weights * steps,
        },
        seconds={"total": record.seconds, "per_round": record.seconds / config.num_server_rounds},
        models=[hello.model for hello in hellos],
        topology=config.topology,
        dataset=config.dataset,
        baseline=_over_nodes(baseline.final("test-accuracy")) if baseline else None,
        participation=[asdict(part) for _, part in sorted(record.participation.items())],
        diverged=record.diverged,
    )


def _over_nodes(values: list[float]) -> dict[str, Any]:
    some = not np.isnan(values).all()
    return {
        "mean": float(np.nanmean(values)) if some else None,
        "std": float(np.nanstd(values)) if some else None,
        "per_node": [None if np.isnan(value) else value for value in values],
    }


def to_json(summary: Summary) -> str:
    """Return the text of summary.json."""
    return json.dumps(asdict(summary), indent=2, allow_nan=False)


def folder_for(config: RunConfig) -> Path:
    """Return the absolute path of a run's results folder.

    Raises
    ------
    InputError
        If nothing can be written there, or another run's results are there that `overwrite` does not give up: better
        known before the run than after it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = DEFAULT_FOLDER / f"{stamp}-{config.strategy}-seed{config.seed}"
    folder = Path(config.output_dir or default).expanduser().absolute()
    folders.check_writable(folder)
    if not config.overwrite:
        folders.check_free(folder)
    return folder


def begin(folder: Path, config: RunConfig) -> None:
    """Make the results folder that of a run that begins; raises InputError if it cannot be written."""
    # Leave to overwrite was given once: the file may be run again.
    kept = replace(config, overwrite=False)
    # In this order a full disk leaves the earlier run as it was.
    folders.write(folder, {CONFIG_FILE: _toml(kept.to_dict()).encode()})
    folders.clear(folder, keep=[CONFIG_FILE])


def write(folder: Path, record: RunRecord, baseline: RunRecord | None, summary: Summary) -> None:
    """Write what a finished run leaves; raises InputError if it cannot be written."""
    # The summary comes last: where it is, all is.
    folders.write(folder, _so_far(record, baseline) | {"summary.json": to_json(summary).encode()})


def write_unfinished(folder: Path, record: RunRecord | None, baseline: RunRecord | None) -> None:
    """Write how far a run came that ended early; raises InputError if it cannot be written."""
    folders.write(folder, _so_far(record, baseline))


def _so_far(record: RunRecord | None, baseline: RunRecord | None) -> dict[str, bytes]:
    """Return the files that need no end of the run, by name."""
    files: dict[str, bytes] = {}
    lines: dict[str, list[pd.DataFrame]] = {}
    title = ""
    for name, label, run in (("history.csv", "", record), ("history-silo.csv", "alone", baseline)):
        if run is None or not run.metrics:
            continue
        history = run.history()
        files[name] = history.to_csv(index=False, lineterminator="\n").encode()
        if "test-accuracy" in history:
            lines[label or run.config.strategy] = [history]
            title = f"{run.config.dataset}, {run.config.topology}"
    if lines:
        from flower_kd import pictures  # matplotlib takes half a second, which processes that draw nothing save

        files["accuracy.png"] = pictures.png(pictures.accuracy_by_round(lines, title))
    return files


@dataclass(frozen=True)
class FinishedRun:
    """What a results folder of a finished run holds.

    Parameters
    ----------
    folder : Path
        Where it lies.
    config, summary
        Those of the run.
    history : DataFrame
        A row a node a round: `round`, `vertex`, and what the node reported, NaN where it reported nothing.
    alone : DataFrame or None
        The same of the nodes trained alone, where the run had that baseline.
    """

    folder: Path
    config: RunConfig
    summary: Summary
    history: pd.DataFrame
    alone: pd.DataFrame | None

    @cached_property
    def graph(self) -> nx.Graph:
        """The communication graph; raises InputError if it came from a file that is gone."""
        return self.config.graph(self.summary.num_nodes)


def read_config(folder: Path) -> RunConfig:
    """Return the config of a run's folder, finished or not; raises InputError if it holds none that can be read."""
    try:
        return RunConfig.parse(tomllib.loads((folder / CONFIG_FILE).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(folder / CONFIG_FILE)!r} cannot be read: {_line(error)}") from None


def read(folder: Path) -> FinishedRun:
    """Return the finished run of a results folder; raises InputError if it holds none, or not one of ours."""
    try:
        summary = Summary(**json.loads((folder / "summary.json").read_text("utf-8")))
        config = RunConfig.parse(tomllib.loads((folder / CONFIG_FILE).read_text("utf-8")))
        history, alone = (
            pd.read_csv(path) if (path := folder / name).exists() else None
            for name in ("history.csv", "history-silo.csv")
        )
    except FileNotFoundError as error:
        raise InputError(f"{str(folder)!r} holds no finished run: there is no {Path(error.filename).name}") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{str(folder)!r} holds no run that can be read: {_line(error)}") from None
    if history is None:
        raise InputError(f"{str(folder)!r} holds no finished run: there is no history.csv")
    return FinishedRun(folder, config, summary, history, alone)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _toml(values: dict[str, Any]) -> str:
    # A JSON text, number or truth value is a TOML one.
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
