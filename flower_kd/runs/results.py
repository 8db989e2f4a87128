"""The results of a run: summary and history, complete at its end and partial before."""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from flower_kd import folders, privacy, topology, wire
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.parts import moved
from flower_kd.protocol import SEEDED_NOISE, Hello
from flower_kd.strategies import STRATEGIES, links
from flower_kd.strategies.node_records import NodeMetrics, Participation, Traffic
from flower_kd.topology.sequence import EXCHANGES

CONFIG_FILE = "config.toml"
SUMMARY_FILE = "summary.json"
GRAPH_FILE = "graph.graphml"


Metrics = dict[tuple[int, int], NodeMetrics]

# In nats: above this mean test loss, the probability of the correct labels underflows in float64.
MEANINGLESS_LOSS = 745.0


@dataclass(frozen=True)
class RunRecord:
    """Everything known about one run, at its end or when it stopped."""

    config: RunConfig
    graph: nx.Graph
    hellos: dict[int, Hello]
    metrics: Metrics
    traffic: Traffic
    seconds: float
    participation: dict[int, Participation] = field(default_factory=dict)
    saved_rounds: Sequence[int] | np.ndarray = ()  # by vertex: the last round whose end state the node was to save
    stopped: Sequence[int] | np.ndarray = ()  # by vertex: the round after which it stopped early, 0 for none
    head_1_round: int = 0  # after which the first of two heads was evaluated; 0 if there is only one
    head_1_stopped: Sequence[int] | np.ndarray = ()  # as `stopped`, in the training of the first of two heads
    noised_messages: Sequence[int] | np.ndarray = ()  # by vertex: messages of logits with noise

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.hellos)

    @property
    def last_round(self) -> int:
        """The run's last round: it ends early when all nodes have stopped."""
        if self.config.patience and not len(self.stopped):  # read back from its history
            return max((server_round for server_round, _ in self.metrics), default=self.config.num_server_rounds)
        return int(max(self.stopped)) if len(self.stopped) and all(self.stopped) else self.config.num_server_rounds

    @property
    def diverged(self) -> list[int]:
        """Vertices whose last mean test loss is above `MEANINGLESS_LOSS`; nodes without one are not included."""
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
        """Return each node's value in the run's last round, in the order of vertices; NaN if it has none."""
        return self.values(name, self.last_round)

    def values(self, name: str, server_round: int) -> list[float]:
        """Return each node's value in a round, in the order of vertices; NaN if it has none."""
        return [values.get(server_round, float("nan")) for values in self.series(name).values()]

    def history(self) -> pd.DataFrame:
        """Return the rows of history.csv: one row per node and round."""
        return history(self.metrics)


def history(metrics: Metrics) -> pd.DataFrame:
    """Return one row per node and round, sorted, with the columns `round`, `vertex` and the reported metrics."""
    names = sorted({name for found in metrics.values() for name in found.values})
    rows = [
        {"round": server_round, "vertex": vertex, **found.values}
        for (server_round, vertex), found in sorted(metrics.items())
    ]
    return pd.DataFrame(rows, columns=["round", "vertex", *names])


def to_csv(rows: pd.DataFrame, *, header: bool = True) -> bytes:
    """Return rows as CSV, from which every number can be read back exactly."""
    return rows.to_csv(index=False, header=header, lineterminator="\n").encode()


def metrics_of(content: bytes, path: Path) -> Metrics:
    """Return the nodes' metrics from the content of a history file; raises InputError if it is damaged."""
    try:
        rows = pd.read_csv(io.BytesIO(content), float_precision="round_trip")
        found: Metrics = {}
        for row in rows.to_dict("records"):
            server_round, vertex = int(row.pop("round")), int(row.pop("vertex"))
            values = {str(name): float(value) for name, value in row.items() if not np.isnan(value)}
            found[server_round, vertex] = NodeMetrics(server_round, vertex, values)
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{str(path)!r} is damaged: {_line(error)}") from None


@dataclass(frozen=True)
class Summary:
    """The content of summary.json.

    Parameters
    ----------
    strategy : str
        The strategy, as in the run config.
    num_nodes : int
        Number of nodes.
    rounds : int
        Number of rounds, fewer than in the config if all nodes stopped early.
    seed : int
        Seed of all randomness.
    accuracy : dict
        Mean and spread (standard deviation) over nodes, and the list by vertex.
    bytes : dict
        Of serialized Flower messages, means over nodes except `total`. `total`: in both directions with handshake,
        metrics and evaluation. `uplink_per_node`: all that a node sent, counted once for all its neighbors.
        `messages_per_edge` and `per_message`: how often a node sends over one edge in one direction in the whole run,
        and how much each time; `per_edge`: both together. Of a graph that varies, an edge is one that any exchange has.
        `per_node`: what a node would send over all its edges if neighbors were linked directly; under a server, over
        that one link. Lost messages were sent.
        `d_sgd_per_message`: the weights that D-SGD would send; `d_sgd_same_frequency_per_edge`: as often as in this
        run; `d_sgd_per_edge`: in every step.
    seconds : dict
        Wall time: `total` with the handshake, in which nodes read their data (so do imports, in the first run of a
        process), and `per_round`, that divided by the number of rounds.
    models : list of str
        Each node's model, by vertex.
    networks : list of dict
        For each different model: `model`; `nodes`, the vertices that trained it; `parameters`, and how many of them are
        not pruned (`kept`); the bytes of a message with its weights, as `d-sgd` would send them (`weights_bytes`), and
        of a file with them (`stored_bytes`).
    topology : str
        The communication graph, as in the run config.
    dataset : str
        The data set, as in the run config.
    initial_weights : str
        "common" or "separate": whether nodes with the same model started from equal weights.
    baseline : dict or None
        As `accuracy`, of the same nodes trained alone; None if they were not.
    head_1 : dict or None
        As `accuracy`, of the first of two heads at the end of its training (`multi-head`), and in `stopped` the same as
        below for that training; None if there is only one.
    participation : list of dict
        By vertex: `due`, the number of train exchanges it should have taken part in; `taken`, how many it did;
        `reasons`, how often it was left out for each reason.
    diverged : list of int
        Vertices whose test loss is no longer meaningful (`MEANINGLESS_LOSS`).
    stopped : list of (int or None)
        With patience, by vertex: the round after which it stopped, None for one that trained to the end; else empty. Of
        two heads, it is about the second.
    privacy : dict or None
        With `wire-noise`: `epsilon` at `delta` of the node that sent most logits, `epsilon_by_delta`, its number of
        `messages` (a reply that was lost counts), the noise `multiplier`, `of` what the loss is, the `assumption`, and
        `seeded_nodes`, the vertices whose noise follows from the run's seed, which protects nothing. None if no
        message had noise.
    identity : str
        The run's identity (`flower_kd.runs.identity`).
    """

    strategy: str
    num_nodes: int
    rounds: int
    seed: int
    accuracy: dict[str, Any]
    bytes: dict[str, Any]
    seconds: dict[str, float]
    models: list[str] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)
    topology: str = ""
    dataset: str = ""
    initial_weights: str = ""
    baseline: dict[str, Any] | None = None
    head_1: dict[str, Any] | None = None
    participation: list[dict[str, Any]] = field(default_factory=list)
    diverged: list[int] = field(default_factory=list)
    stopped: list[int | None] = field(default_factory=list)
    privacy: dict[str, Any] | None = None
    identity: str = ""

    def kept(self) -> dict[int, str]:
        """Return how many of its parameters each node keeps, in words, by vertex; empty if no node's are pruned."""
        if all(network["kept"] == network["parameters"] for network in self.networks):
            return {}
        return {
            vertex: f"{network['kept']:,} of {network['parameters']:,}"
            for network in self.networks
            for vertex in network["nodes"]
        }

    def d_sgd_ratio(self, d_sgd: str) -> float:
        """Return the ratio of a D-SGD figure in `bytes` to the bytes per edge; NaN if nothing was sent."""
        return self.bytes[d_sgd] / self.bytes["per_edge"] if self.bytes["per_edge"] else nan


def has_baseline(config: RunConfig) -> bool:
    """Return whether a run also trains each node alone."""
    return config.baseline == "silo" and config.strategy != "silo"


def summarize(record: RunRecord, baseline: RunRecord | None) -> Summary:
    """Return a run's figures."""
    config = record.config
    steps = record.last_round * config.local_steps
    hellos = [record.hellos[vertex] for vertex in sorted(record.hellos)]
    traffic, weights = record.traffic, float(np.median([hello.weights_bytes for hello in hellos]))
    out_degrees = np.maximum(links(STRATEGIES.get(config.strategy), record.graph), 1)  # those alone send nothing
    messages = float((traffic.messages_over_links / out_degrees).mean())
    per_edge = float((traffic.over_links / out_degrees).mean())
    return Summary(
        strategy=config.strategy,
        num_nodes=record.num_nodes,
        rounds=record.last_round,
        seed=config.seed,
        accuracy=_over_nodes(record.final("test-accuracy")),
        bytes={
            "total": int(traffic.up.sum() + traffic.down.sum()),
            "uplink_per_node": float(traffic.up.mean()),
            "messages_per_edge": messages,
            "per_message": per_edge / messages if messages else 0.0,
            "per_edge": per_edge,
            "per_node": float(traffic.over_links.mean()),
            "d_sgd_per_message": weights,
            "d_sgd_same_frequency_per_edge": weights * messages,
            "d_sgd_per_edge": weights * steps,
        },
        seconds={"total": record.seconds, "per_round": record.seconds / record.last_round},
        models=[hello.model for hello in hellos],
        networks=_networks(hellos),
        topology=config.topology,
        dataset=config.dataset,
        initial_weights="common" if config.common_weights else "separate",
        baseline=_over_nodes(baseline.final("test-accuracy")) if baseline else None,
        head_1=_head_1(record) if record.head_1_round else None,
        participation=[asdict(part) for _, part in sorted(record.participation.items())],
        diverged=record.diverged,
        stopped=_stopped(record.stopped) if config.patience else [],
        privacy=_privacy(record),
    )


def _privacy(record: RunRecord) -> dict[str, Any] | None:
    noise, messages = wire.noise.get(record.config.wire_noise), int(max(record.noised_messages, default=0))
    if noise is None or not messages:
        return None
    losses = {f"{delta:g}": privacy.epsilon(noise.multiplier, messages, delta) for delta in privacy.DELTAS}
    return {
        "epsilon": losses[f"{privacy.DELTA:g}"],
        "delta": privacy.DELTA,
        "epsilon_by_delta": losses,
        "messages": messages,
        "multiplier": noise.multiplier,
        "of": "all private data of a node, hence of each of its samples",
        "assumption": "of what a node sends only logits are about its data: metrics are not covered",
        "seeded_nodes": [
            vertex for vertex, hello in sorted(record.hellos.items()) if hello.noised_messages == SEEDED_NOISE
        ],
    }


def _head_1(record: RunRecord) -> dict[str, Any]:
    stopped = _stopped(record.head_1_stopped) if record.config.patience else []
    return {**_over_nodes(record.values("test-accuracy", record.head_1_round)), "stopped": stopped}


def _stopped(rounds: Sequence[int] | np.ndarray) -> list[int | None]:
    return [int(last) or None for last in rounds]


def _networks(hellos: Sequence[Hello]) -> list[dict[str, Any]]:
    """Return the size of each different model, in the order of its first vertex."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for vertex, hello in enumerate(hellos):
        sizes = {
            "parameters": hello.parameters,
            "kept": hello.parameters - hello.pruned,
            "weights_bytes": hello.weights_bytes,
            "stored_bytes": hello.stored_bytes,
        }
        network = found.setdefault((hello.model, *sizes.values()), {"model": hello.model, "nodes": [], **sizes})
        network["nodes"].append(vertex)
    return list(found.values())


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


def write(
    folder: Path,
    record: RunRecord,
    baseline: RunRecord | None,
    summary: Summary,
    pictures: Mapping[str, bytes],
) -> None:
    """Write the results of a finished run; raises InputError if they cannot be written."""
    # The summary comes last: if it exists, so does everything else.
    last = {SUMMARY_FILE: to_json(summary).encode()}
    folders.write(folder, _histories(record, baseline) | dict(pictures) | last)


def write_unfinished(
    folder: Path, record: RunRecord | None, baseline: RunRecord | None, pictures: Mapping[str, bytes]
) -> None:
    """Write the partial results of a run that ended early; raises InputError if they cannot be written."""
    folders.write(folder, _histories(record, baseline) | dict(pictures))


def _histories(record: RunRecord | None, baseline: RunRecord | None) -> dict[str, bytes]:
    runs = {"history.csv": record, "history-silo.csv": baseline}
    return {name: to_csv(run.history()) for name, run in runs.items() if run is not None and run.metrics}


@dataclass(frozen=True)
class FinishedRun:
    """The results folder of a finished run.

    Parameters
    ----------
    folder : Path
        The results folder.
    config, summary
        Those of the run.
    history : DataFrame
        A row a node a round: `round`, `vertex`, and what the node reported, NaN if it reported nothing.
    alone : DataFrame or None
        The same for the nodes trained alone, if the run had that baseline.
    """

    folder: Path
    config: RunConfig
    summary: Summary
    history: pd.DataFrame
    alone: pd.DataFrame | None

    @cached_property
    def graph(self) -> nx.Graph:
        """The communication graph of the run; raises InputError if its file is missing or damaged."""
        return topology.build(str(self.folder / GRAPH_FILE), self.summary.num_nodes)


def read_config(folder: Path) -> RunConfig:
    """Return the config in a run's folder, finished or not; raises InputError if it cannot be read."""
    try:
        return RunConfig.read(moved.applied(tomllib.loads((folder / CONFIG_FILE).read_text("utf-8"))))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(folder / CONFIG_FILE)!r} cannot be read: {_line(error)}") from None


def read(folder: Path) -> FinishedRun:
    """Return the finished run in a results folder; raises InputError if there is none, or it cannot be read."""
    try:
        summary = Summary(**json.loads((folder / SUMMARY_FILE).read_text("utf-8")))
        config = RunConfig.read(moved.applied(tomllib.loads((folder / CONFIG_FILE).read_text("utf-8"))))
        rows, alone = (
            pd.read_csv(path) if (path := folder / name).exists() else None
            for name in ("history.csv", "history-silo.csv")
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{str(folder)!r} does not contain a finished run: there is no {Path(error.filename).name}"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{str(folder)!r} does not contain a readable run: {_line(error)}") from None
    if rows is None:
        raise InputError(f"{str(folder)!r} does not contain a finished run: there is no history.csv")
    marker = folders.read_marker(folder)
    if marker is not None and marker.identity != summary.identity:
        raise InputError(f"{str(folder)!r} does not contain a finished run: its {SUMMARY_FILE} belongs to another run")
    return FinishedRun(folder, config, summary, rows, alone)


def is_finished(folder: Path) -> bool:
    """Return whether a folder contains a finished run that can be read."""
    try:
        read(folder)
    except InputError:
        return False
    return True


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def graph_to_bytes(graph: nx.Graph) -> bytes:
    """Return a communication graph as GraphML, from which `topology.build` builds the same graph.

    The edges of a union keep the number of exchanges that have them.
    """
    names = nx.get_node_attributes(graph, "name")
    plain = nx.DiGraph() if graph.is_directed() else nx.Graph()
    plain.add_nodes_from(names.get(vertex, vertex) for vertex in sorted(graph))
    for source, target, attributes in graph.edges(data=True):
        kept = {EXCHANGES: attributes[EXCHANGES]} if EXCHANGES in attributes else {}
        plain.add_edge(names.get(source, source), names.get(target, target), **kept)
    return "\n".join(nx.generate_graphml(plain)).encode()


def to_toml(values: dict[str, Any]) -> str:
    """Return a flat config as TOML."""
    # A JSON string, number or boolean is a valid TOML value.
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
