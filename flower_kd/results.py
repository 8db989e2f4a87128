"""What a run leaves: summary, history, picture, and the table on the screen."""

from __future__ import annotations

import csv
import io
import json
import os
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.protocol import Hello
from flower_kd.strategies.network import NodeMetrics, Traffic

# Not the working folder: under Flower that is the one in which the SuperLink was started, whenever that was.
DEFAULT_FOLDER = Path("~/flower-kd-results")


@dataclass(frozen=True)
class RunRecord:
    """All that is known of one finished run."""

    config: RunConfig
    graph: nx.Graph
    hellos: dict[int, Hello]
    metrics: dict[tuple[int, int], NodeMetrics]
    traffic: Traffic
    seconds: float

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.hellos)

    def series(self, name: str) -> dict[int, dict[int, float]]:
        """Return a metric by vertex and round, for the rounds in which the node reported it."""
        found: dict[int, dict[int, float]] = {vertex: {} for vertex in sorted(self.hellos)}
        for (server_round, vertex), metrics in sorted(self.metrics.items()):
            if name in metrics.values:
                found[vertex][server_round] = metrics.values[name]
        return found

    def final(self, name: str) -> list[float]:
        """Return each node's value of a metric in the last round, in the order of vertices; NaN where it has none."""
        last = self.config.num_server_rounds
        return [values.get(last, float("nan")) for values in self.series(name).values()]


@dataclass(frozen=True)
class Summary:
    """What summary.json holds.

    Parameters
    ----------
    accuracy, baseline : dict
        Mean and spread (standard deviation) over nodes, and the list by vertex; `baseline` is of the nodes alone.
    bytes : dict
        Of serialized Flower messages: `total` in both directions with handshake, metrics and evaluation; `per_edge`
        what one node sends over one edge in one direction over the whole run (mean over nodes); `uplink_per_node`
        all that a node sent (mean over nodes); `d_sgd_per_edge` the weights that D-SGD would have sent instead, an
        exchange a step.
    seconds : dict
        Wall time, `total` with the handshake.
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


def summarize(record: RunRecord, baseline: RunRecord | None) -> Summary:
    """Return a run's figures."""
    config = record.config
    steps = config.num_server_rounds * config.local_steps
    hellos = [record.hellos[vertex] for vertex in sorted(record.hellos)]
    return Summary(
        strategy=config.strategy,
        num_nodes=record.num_nodes,
        rounds=config.num_server_rounds,
        seed=config.seed,
        accuracy=_over_nodes(record.final("test-accuracy")),
        bytes={
            "total": int(record.traffic.up.sum() + record.traffic.down.sum()),
            "per_edge": float(record.traffic.shared.mean()),
            "uplink_per_node": float(record.traffic.up.mean()),
            "d_sgd_per_edge": float(np.mean([hello.weights_bytes for hello in hellos])) * steps,
        },
        seconds={"total": record.seconds, "per_round": record.seconds / config.num_server_rounds},
        models=[hello.model for hello in hellos],
        topology=config.topology,
        dataset=config.dataset,
        baseline=_over_nodes(baseline.final("test-accuracy")) if baseline else None,
    )


def _over_nodes(values: list[float]) -> dict[str, Any]:
    known = [value for value in values if value == value]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known)) if known else None,
        "per_node": [value if value == value else None for value in values],
    }


def to_json(summary: Summary) -> str:
    """Return the text of summary.json."""
    return json.dumps(asdict(summary), indent=2, allow_nan=False)


def folder_for(config: RunConfig) -> Path:
    """Return the absolute path of a run's results folder.

    Raises
    ------
    InputError
        If nothing can be written there: better known before the run than after it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = DEFAULT_FOLDER / f"{stamp}-{config.strategy}-seed{config.seed}"
    folder = Path(config.output_dir or default).expanduser().absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {str(nearest)!r} is no folder to write in")
    return folder


def write(folder: Path, record: RunRecord, baseline: RunRecord | None, summary: Summary) -> None:
    """Write the results folder; raises InputError if it cannot be written."""
    parts: dict[str, bytes] = {
        "config.toml": _toml(record.config.to_dict()).encode(),
        "history.csv": _history(record).encode(),
        "summary.json": to_json(summary).encode(),
        "accuracy.png": _png(accuracy_figure(record, baseline)),
    }
    if baseline:
        parts["history-silo.csv"] = _history(baseline).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in parts.items():
            _replace(folder / name, content)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {error.strerror}") from None


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


def read(folder: Path) -> FinishedRun:
    """Return the finished run of a results folder; raises InputError if it holds none, or not one of ours."""
    try:
        summary = Summary(**json.loads((folder / "summary.json").read_text()))
        config = RunConfig.parse(tomllib.loads((folder / "config.toml").read_text()))
        history, alone = (
            pd.read_csv(path) if (path := folder / name).exists() else None
            for name in ("history.csv", "history-silo.csv")
        )
    except FileNotFoundError as error:
        raise InputError(f"{str(folder)!r} holds no finished run: there is no {Path(error.filename).name}") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{str(folder)!r} holds no run that can be read: {error}") from None
    if history is None:
        raise InputError(f"{str(folder)!r} holds no finished run: there is no history.csv")
    return FinishedRun(folder, config, summary, history, alone)


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _toml(values: dict[str, Any]) -> str:
    # A JSON text, number or truth value is a TOML one.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def _history(record: RunRecord) -> str:
    """Return a row a node a round."""
    names = sorted({name for metrics in record.metrics.values() for name in metrics.values})
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["round", "vertex", *names])
    for (server_round, vertex), metrics in sorted(record.metrics.items()):
        rows.writerow([server_round, vertex, *(metrics.values.get(name, "") for name in names)])
    return text.getvalue()


def accuracy_figure(record: RunRecord, baseline: RunRecord | None) -> Figure:
    """Return test accuracy by round, a line a node, and the means."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    runs: list[tuple[RunRecord, str, str]] = [(record, record.config.strategy, "tab:blue")]
    if baseline:
        runs.append((baseline, "alone", "tab:orange"))
    for run, label, color in runs:
        by_vertex = run.series("test-accuracy")
        for values in by_vertex.values():
            axes.plot(list(values), list(values.values()), color=color, alpha=0.25, linewidth=0.8)
        rounds = sorted({server_round for values in by_vertex.values() for server_round in values})
        means = [np.mean([values[r] for values in by_vertex.values() if r in values]) for r in rounds]
        axes.plot(rounds, means, color=color, linewidth=2.2, marker=".", label=f"{label}, mean")
    axes.set(xlabel="round", ylabel="test accuracy", title=f"{record.config.dataset}, {record.config.topology}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def _png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def show(record: RunRecord, baseline: RunRecord | None, summary: Summary) -> None:
    """Print each node's accuracy, next to the same node alone, and the bytes next to those of D-SGD."""
    console = Console(width=100)
    table = Table(title=f"{summary.strategy} on {summary.dataset}, {summary.topology} of {summary.num_nodes} nodes")
    columns: list[tuple[str, Callable[[int], str]]] = [
        ("node", str),
        ("model", lambda vertex: summary.models[vertex]),
        (summary.strategy, lambda vertex: _percent(summary.accuracy["per_node"][vertex])),
    ]
    if summary.baseline:
        alone = summary.baseline
        columns.append(("alone", lambda vertex: _percent(alone["per_node"][vertex])))
    for name, _ in columns:
        table.add_column(name, justify="left" if name == "model" else "right")
    for vertex in range(summary.num_nodes):
        table.add_row(*(cell(vertex) for _, cell in columns))
    table.add_section()
    for label, key in (("mean", "mean"), ("spread", "std")):
        row = [label, "", _percent(summary.accuracy[key])]
        table.add_row(*row, *([_percent(summary.baseline[key])] if summary.baseline else []))
    console.print(table)
    sent, d_sgd = summary.bytes["per_edge"], summary.bytes["d_sgd_per_edge"]
    ratio = f", {d_sgd / sent:,.0f} times as much" if sent else ""
    console.print(
        f"sent over one edge in one direction: {_megabytes(sent)}; D-SGD, an exchange a step, would have sent "
        f"{_megabytes(d_sgd)}{ratio}; all messages both ways: {_megabytes(summary.bytes['total'])}"
    )
    console.print(f"{summary.seconds['total']:.1f} s, {summary.seconds['per_round']:.3f} s a round")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"
