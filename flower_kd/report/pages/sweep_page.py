"""The page of a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from flower_kd.config import RunConfig
from flower_kd.report.formats import as_text, as_toml
from flower_kd.report.pages.elements import Column, Picture, Table
from flower_kd.report.pages.page import Page
from flower_kd.report.pages.reading import reading
from flower_kd.report.pages.seeds import by_accuracy, failures, overview, results
from flower_kd.report.pages.settings import Settings

_FIGURES = ("accuracy", "accuracy-std", "bytes-per-edge", "bytes-per-node", "seconds", "exchanges-missed")
_ALT = "Heat maps of mean test accuracy by setting, as in the table of settings"


def sweep(folder: Path) -> Page:
    """Return the page of a sweep; raises InputError if its files are damaged."""
    with reading(folder / "sweep.json") as path:
        about = json.loads(path.read_text("utf-8"))
        grid = {key: ", ".join(as_toml(value) for value in values) for key, values in about["grid"].items()}
        config = RunConfig().to_dict() | about["config"] | {"num-nodes": about["num_nodes"]}
        lead = f"{about['num_nodes']} nodes, seeds {', '.join(str(seed) for seed in about['seeds'])}"
    with reading(folder / "sweep.csv") as path:
        runs = _swept(path, list(grid))
    rows = by_accuracy(runs, list(grid), _FIGURES)
    common = {key: value for key, value in config.items() if key not in {*grid, "seed"}}
    return Page(
        "sweep",
        f"Sweep of {', '.join(grid)}",
        lead,
        {
            "headline": list(overview(rows, lambda row: ", ".join(f"{key} = {as_text(row[key])}" for key in grid))),
            "settings_by_accuracy": results(rows, list(grid)),
            "picture": Picture.read(folder / "sweep.png", _ALT),
            "failed": failures(runs, list(grid)),
            "grid": Table.of("Grid", [Column("key", list(grid)), Column("values", list(grid.values()))]),
            "config": Settings.of(common),
        },
    )


def _swept(path: Path, keys: Sequence[str]) -> pd.DataFrame:
    """Return the runs of a sweep.csv; strings such as "none", and empty ones, are ordinary values."""
    if not keys:
        raise ValueError("the grid of sweep.json is empty")
    runs = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in _FIGURES})
    return runs[[*keys, "seed", *_FIGURES, "error"]].astype(dict.fromkeys(_FIGURES, float))
