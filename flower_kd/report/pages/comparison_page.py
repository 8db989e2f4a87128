"""The page of a comparison."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flower_kd.report.formats import SECONDS, megabytes, percent, short
from flower_kd.report.pages.elements import Column, Picture, Table, accuracy_column
from flower_kd.report.pages.page import Page
from flower_kd.report.pages.reading import reading
from flower_kd.report.pages.run_page import FIGURES, figures_of
from flower_kd.report.pages.seeds import by_accuracy, failures, overview, results, shortfall_columns
from flower_kd.report.pages.settings import differences
from flower_kd.report.unequal import initial_weights
from flower_kd.runs.results import CONFIG_FILE, Summary

_ALT = "Charts of test accuracy by round and by bytes for each label, as in the tables"


def comparison(folder: Path) -> Page:
    """Return the page of a comparison; raises InputError if its files are damaged."""
    with reading(folder / "comparison.json") as path:
        finished = _compared(json.loads(path.read_text("utf-8")))
    with reading(folder / "failed.json") as path:  # only if a run failed
        entries = json.loads(path.read_text("utf-8")) if path.exists() else []
        failed = [{key: run[key] for key in ("run", "seed", "error")} for run in entries]
    configs = []
    for run in finished:
        with reading(folder / run["folder"] / CONFIG_FILE) as path:
            configs.append(tomllib.loads(path.read_text("utf-8")) | {"num-nodes": run["num-nodes"]})
    runs = pd.DataFrame([*finished, *failed], columns=["run", "seed", *FIGURES, "error", "folder"])
    rows = by_accuracy(runs, ["run"], FIGURES)
    differ, common = differences([run["run"] for run in finished], configs)
    return Page(
        "comparison",
        f"Comparison: {', '.join(rows['run'].sort_index())}",
        "Runs with the same label differ only in their seed",
        {
            "headline": list(overview(rows, lambda row: row["run"])),
            "settings_by_accuracy": results(rows, ["run"]),
            "initial_weights": initial_weights({run["run"]: run["initial-weights"] for run in finished}),
            "picture": Picture.read(folder / "comparison.png", _ALT),
            "failed": failures(runs, ["run"]),
            "runs": Table.of("Runs", list(_run_columns(runs[runs["error"] == ""]))),
            "differences": differ,
            "config": common,
        },
    )


def _compared(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of each run in a comparison.json."""
    runs = []
    for entry in entries:
        fields = dict(entry)
        run = {"run": str(fields.pop("run")), "folder": str(fields.pop("folder"))}
        summary = Summary(**fields)
        began = {"num-nodes": summary.num_nodes, "initial-weights": summary.initial_weights}
        runs.append({**run, **began, "seed": summary.seed, "error": "", **figures_of(summary)})
    return runs


def _run_columns(runs: pd.DataFrame) -> Iterator[Column]:
    yield Column("label", runs["run"])
    yield Column("seed", runs["seed"])
    yield accuracy_column("accuracy, %", runs["accuracy"])
    yield Column("spread, points", runs["accuracy-std"], percent, hint="standard deviation over nodes")
    if runs["head-1"].notna().any():
        yield accuracy_column("head 1, %", runs["head-1"])
    if runs["alone"].notna().any():
        yield accuracy_column("alone, %", runs["alone"])
    yield Column("MB per edge", runs["bytes-per-edge"], megabytes)
    yield from shortfall_columns(runs)
    yield Column("seconds", runs["seconds"], short, hint=SECONDS)
    yield Column("folder", runs["folder"])
