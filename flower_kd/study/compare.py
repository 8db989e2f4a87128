"""Several strategies or settings side by side, with several seeds: `flower-kd compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flower_kd import folders
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.report import paper_tables, pictures, unequal
from flower_kd.report.formats import MISSING, SECONDS, short
from flower_kd.report.interval import interval
from flower_kd.runs import results, shortfalls
from flower_kd.strategies import STRATEGIES, sends_to
from flower_kd.study import batch
from flower_kd.study.job import Outcome
from flower_kd.study.pacing import Pacing
from flower_kd.unused import warning

SENT = ("per_message", "messages_per_edge", "per_edge", "per_node")


class Comparison(batch.Batch):
    """A comparison and its folder, which is up to date after each run.

    Parameters
    ----------
    runs : mapping
        Run configs by label.
    seed_text : str
        See `seeds.parse`.
    num_nodes : int
        Number of nodes.
    folder : Path
        Results folder.

    Raises
    ------
    InputError
        If none of the runs can be executed.
    """

    def __init__(self, runs: Mapping[str, Mapping[str, Any]], seed_text: str, num_nodes: int, folder: Path) -> None:
        super().__init__("comparison", batch.jobs(runs, seed_text, num_nodes, folder), folder)
        self._drawing = Pacing()
        found = batch.problems(self.jobs)
        # A run that cannot be executed becomes a row with its error, as long as any other can.
        failing = {label for labels in found.values() for label in labels}
        if failing == set(runs):
            raise InputError("; ".join(found))
        self.warning = warning(RunConfig.parse(config) for label, config in runs.items() if label not in failing)

    def _write(self) -> None:
        self._write_tables()
        self._draw()

    def _update(self) -> None:
        self._write_tables()
        if self._drawing.due:
            self._draw()

    def _write_tables(self) -> None:
        finished = [
            asdict(outcome.summary)
            | {"run": outcome.job.label, "folder": outcome.job.folder.relative_to(self.folder).as_posix()}
            for outcome in self.outcomes
            if outcome.summary is not None
        ]
        failed = [
            {"run": outcome.job.label, "seed": outcome.job.seed, "error": outcome.error} for outcome in self.failed
        ]
        rows = table(self.outcomes)
        parts = {
            **({"failed.json": json.dumps(failed, indent=2).encode()} if failed else {}),
            "comparison.csv": rows.to_csv(index=False, lineterminator="\n").encode(),
            **paper_tables.of_comparison(rows, _notes(rows, self.outcomes)).files("comparison"),
            # Last: if it exists, so do the others.
            "comparison.json": json.dumps(finished, indent=2, allow_nan=False).encode(),
        }
        if not failed:
            folders.remove(self.folder, "failed.json")  # of an earlier attempt
        folders.write(self.folder, parts)

    def _draw(self) -> None:
        finished = [outcome for outcome in self.outcomes if outcome.summary is not None]
        if not finished:
            return
        with self._drawing.timed():
            histories: dict[str, list[pd.DataFrame]] = {}
            finals: dict[str, pictures.Final] = {}
            for outcome in finished:
                run = results.read(outcome.job.folder)
                histories.setdefault(outcome.job.label, []).append(run.history)
                recipient = sends_to(STRATEGIES.get(run.summary.strategy))
                final = pictures.Final(run.graph, run.summary.accuracy["per_node"], recipient)
                finals.setdefault(outcome.job.label, final)
            folders.write(self.folder, pictures.files(pictures.comparison(histories, finals), "comparison"))


def table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return the rows of comparison.csv: one per label, with means over its seeds.

    Columns: `run`; `seeds`, how many finished; `accuracy`, mean over nodes and seeds, with `accuracy-low` and
    `accuracy-high` and the `interval` that they are; `spread`, standard deviation over nodes;
    `head-1`, the accuracy of the first of two heads, empty if there is one; `kb-per-message` (10^3
    bytes) and `messages-per-edge`, what a node sends over one edge in one direction; `mb-per-edge` (10^6 bytes), both
    together; `mb-per-node`, over all edges of a node, if neighbors are linked directly; `d-sgd-times-same-frequency`
    and `d-sgd-times-every-step`, how many times as much D-SGD sends over an edge; `initial-weights`, common to all
    nodes of a model or separate; `seconds`; `exchanges-due`, `exchanges-missed` and `diverged` (nodes), summed over
    nodes and seeds; `error`, empty if none failed.
    """
    by_label: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_label.setdefault(outcome.job.label, []).append(outcome)
    return pd.DataFrame([_row(label, ended) for label, ended in by_label.items()], columns=list(_row("", [])))


def _row(label: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    summaries = [outcome.summary for outcome in outcomes if outcome.summary is not None]
    accuracy = interval([_number(summary.accuracy["mean"]) for summary in summaries])
    sent = {name: _mean([summary.bytes[name] for summary in summaries]) for name in SENT}
    missed, due = (sum(counts) for counts in zip((0, 0), *map(shortfalls.missed, summaries), strict=True))
    return {
        "run": label,
        "seeds": len(summaries),
        "accuracy": accuracy.mean,
        "accuracy-low": accuracy.low,
        "accuracy-high": accuracy.high,
        "interval": accuracy.kind,
        "spread": _mean([_number(summary.accuracy["std"]) for summary in summaries]),
        "head-1": _mean([_number(summary.head_1["mean"]) for summary in summaries if summary.head_1]),
        "kb-per-message": sent["per_message"] / 1e3,
        "messages-per-edge": sent["messages_per_edge"],
        "mb-per-edge": sent["per_edge"] / 1e6,
        "mb-per-node": sent["per_node"] / 1e6,
        "d-sgd-times-same-frequency": _mean([s.d_sgd_ratio("d_sgd_same_frequency_per_edge") for s in summaries]),
        "d-sgd-times-every-step": _mean([s.d_sgd_ratio("d_sgd_per_edge") for s in summaries]),
        "initial-weights": summaries[0].initial_weights if summaries else "",
        "seconds": _mean([summary.seconds["total"] for summary in summaries]),
        "exchanges-due": due,
        "exchanges-missed": missed,
        "diverged": sum(len(summary.diverged) for summary in summaries),
        "error": "; ".join(dict.fromkeys(outcome.error for outcome in outcomes if outcome.error)),
    }


def screen(comparison: Comparison) -> Group:
    """Return the tables for the terminal: the accuracy of the runs, and what their nodes send."""
    rows = table(comparison.outcomes)
    sending = rows[rows["messages-per-edge"] > 0]
    return Group(_accuracies(rows, _training(comparison.outcomes)), *([] if sending.empty else [_sent(sending)]))


def _accuracies(rows: pd.DataFrame, training: str) -> Table:
    kinds = ", ".join(dict.fromkeys(kind for kind in rows["interval"] if kind != "no value"))
    remarks = (_weights(rows), f"runs {training}" if training else "", f"seconds: {SECONDS}")
    shown = Table(
        title=f"means over nodes and seeds; interval: {kinds}" if kinds else None,
        caption=Text("\n".join(filter(None, remarks)), style="table.caption"),
    )
    incomplete = (rows["exchanges-missed"] > 0) | (rows["diverged"] > 0)
    first_heads = rows["head-1"].notna().any()
    columns = ["run", "accuracy", "interval", "spread", *(["head 1"] if first_heads else []), "seconds"]
    for column in (*columns, *(["incomplete"] if incomplete.any() else [])):
        left = column in ("run", "incomplete")
        shown.add_column(column, justify="left" if left else "right", overflow="fold")
    for _, row in rows.iterrows():
        if row["seeds"] == 0:
            shown.add_row(Text(row["run"]), "failed")
            continue
        shown.add_row(
            Text(row["run"]),
            f"{row['accuracy']:.3f}",
            f"{row['accuracy-low']:.3f} to {row['accuracy-high']:.3f}",
            f"{row['spread']:.3f}",
            *([MISSING if np.isnan(row["head-1"]) else f"{row['head-1']:.3f}"] if first_heads else []),
            f"{row['seconds']:.1f}",
            *([_shortfall(row)] if incomplete.any() else []),
        )
    return shown


def _weights(rows: pd.DataFrame) -> str:
    return unequal.initial_weights(dict(zip(rows["run"], rows["initial-weights"], strict=True)))


def _training(outcomes: Sequence[Outcome]) -> str:
    return unequal.training({o.job.label: o.job.config for o in outcomes if o.summary is not None})


def _notes(rows: pd.DataFrame, outcomes: Sequence[Outcome]) -> list[str]:
    """Return what a table of these rows must say about what makes runs unequal, and what they missed."""
    weights, training = _weights(rows), _training(outcomes)
    incomplete = rows[(rows["exchanges-missed"] > 0) | (rows["diverged"] > 0)]
    return [
        *([f"Runs have {weights}"] if weights else []),
        *([f"Runs {training}"] if training else []),
        *(f"{row['run']}: {_shortfall(row)}" for _, row in incomplete.iterrows()),
    ]


def _sent(rows: pd.DataFrame) -> Table:
    shown = Table(title="sent by a node; D-SGD: how many times as many bytes over an edge")
    sizes = ("messages over an edge", "all of them", "over all its edges")
    for column in ("run", *sizes, "D-SGD, same frequency", "D-SGD every step"):
        shown.add_column(column, justify="left" if column == "run" else "right", overflow="fold")
    for _, row in rows.iterrows():
        shown.add_row(
            Text(row["run"]),
            f"{row['messages-per-edge']:,.4g} x {short(row['kb-per-message'])} kB",
            f"{short(row['mb-per-edge'])} MB",
            f"{short(row['mb-per-node'])} MB",
            f"{row['d-sgd-times-same-frequency']:,.1f} x",
            f"{row['d-sgd-times-every-step']:,.1f} x",
        )
    return shown


def _shortfall(row: pd.Series) -> str:
    missed, diverged = row["exchanges-missed"], row["diverged"]
    parts = [f"{missed:,} of {row['exchanges-due']:,} exchanges missed"] if missed else []
    parts += [f"{diverged:,} node{'s' if diverged > 1 else ''} diverged"] if diverged else []
    return ", ".join(parts)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


def _number(value: float | None) -> float:
    return np.nan if value is None else value
