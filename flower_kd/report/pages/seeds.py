"""What the pages of comparisons and sweeps have in common: finished and failed runs, by setting and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from flower_kd.report.formats import SECONDS, as_text, megabytes, percent, short
from flower_kd.report.over_seeds import over_seeds
from flower_kd.report.pages.elements import Column, Figure, Table, accuracy_column

PER_NODE = "over all edges of a node, if neighbors are linked directly (fedavg: over its link to the server)"
_MAX_KEYS = 3
_SENT = {
    "bytes-per-message": ("kB per message", lambda count: short(count / 1e3)),
    "messages-per-edge": ("messages per edge", short),
    "bytes-per-edge": ("MB per edge", megabytes),
    "bytes-per-node": ("MB per node", megabytes),
    "same-frequency": ("D-SGD same frequency, times", short),
    "every-step": ("D-SGD every step, times", short),
}


@dataclass(frozen=True)
class Results:
    """The tables of settings: how accurate, and, if anything was sent, what a node sends."""

    accuracy: Table
    sent: Table | None
    kinds: str
    per_node: str = PER_NODE


def by_accuracy(runs: pd.DataFrame, keys: Sequence[str], figures: Sequence[str]) -> pd.DataFrame:
    """Return `over_seeds`, the most accurate first."""
    known = [name for name in figures if name in runs]
    return over_seeds(runs, keys, known).sort_values("accuracy", ascending=False, kind="stable")


def overview(rows: pd.DataFrame, describe: Callable[[pd.Series], str]) -> Iterator[Figure]:
    """Yield the headline figures of settings, the most accurate first."""
    finished = rows[rows["accuracy"].notna()]
    if not finished.empty:
        best = finished.iloc[0]
        yield Figure("highest accuracy", percent(best["accuracy"], " %"), describe(best))
    yield Figure("runs finished", str(rows["finished"].sum()), f"{rows['failed'].sum()} failed")


def results(rows: pd.DataFrame, keys: Sequence[str]) -> Results:
    """Return the tables of settings."""
    ends = [
        (row["low"], row["high"]) if row["finished"] > 1 and pd.notna(row["low"]) else None
        for _, row in rows.iterrows()
    ]
    accuracy = [
        *_names(rows, keys),
        accuracy_column("accuracy, %", rows["accuracy"], order="descending"),
        Column("over seeds, %", ends, lambda pair: f"{percent(pair[0])} to {percent(pair[1])}"),
        Column("spread, points", rows["accuracy-std"], percent, best="lowest", hint="standard deviation over nodes"),
        *shortfall_columns(rows),
        Column("seconds", rows["seconds"], short, hint=SECONDS),
        Column("seeds", rows["finished"]),
    ]
    if rows["failed"].any():
        accuracy.append(Column("failed", rows["failed"]))
    sending = rows[rows["bytes-per-edge"] > 0]
    sent = [
        *_names(sending, keys),
        *(Column(title, sending[name], show) for name, (title, show) in _SENT.items() if name in sending),
    ]
    kinds = "; ".join(kind for kind in rows["kind"].unique() if kind != "no value")
    return Results(Table.of("Results", accuracy), None if sending.empty else Table.of("What a node sends", sent), kinds)


def shortfall_columns(rows: pd.DataFrame) -> Iterator[Column]:
    """Yield columns for missed exchanges and diverged nodes, if there are any."""
    for name, title in (("exchanges-missed", "exchanges missed"), ("diverged", "nodes diverged")):
        if name in rows and rows[name].gt(0).any():
            yield Column(title, rows[name], short)


def failures(runs: pd.DataFrame, keys: Sequence[str]) -> Table | None:
    """Return the table of failed runs, None if there are none."""
    failed = runs[runs["error"] != ""]
    columns = [*_names(failed, keys), Column("seed", failed["seed"]), Column("error", failed["error"])]
    return None if failed.empty else Table.of("Failed runs", columns)


def _names(rows: pd.DataFrame, keys: Sequence[str]) -> Iterator[Column]:
    """Yield the columns that name the rows: one per key, or, as many would not fit the page, one for all of them."""
    if len(keys) <= _MAX_KEYS:
        for key in keys:
            yield Column("label" if key == "run" else key, rows[key], as_text)
    else:
        pairs = [", ".join(f"{key} = {as_text(row[key])}" for key in keys) for _, row in rows.iterrows()]
        yield Column("setting", pairs)
