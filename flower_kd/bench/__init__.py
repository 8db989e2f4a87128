"""Benchmarks of speed and memory against their targets: `flower-kd bench`."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from flower_kd.bench.devices import device_rounds
from flower_kd.bench.dissimilarity_cost import dissimilarity_costs
from flower_kd.bench.figure import Figure
from flower_kd.bench.flower import against_flower
from flower_kd.bench.growth import neighbors, nodes_and_memory
from flower_kd.bench.imports import node_imports
from flower_kd.bench.sweep_jobs import two_jobs
from flower_kd.bench.tax import framework_tax, published_scale
from flower_kd.errors import InputError, unknown

__all__ = ["MEASUREMENTS", "Figure", "run"]

MEASUREMENTS: dict[str, Callable[[], Figure | list[Figure]]] = {
    "imports": node_imports,
    "tax": framework_tax,
    "flower": against_flower,
    "scale": lambda: published_scale(full=False),
    "full-scale": lambda: published_scale(full=True),
    "nodes": nodes_and_memory,
    "neighbors": neighbors,
    "dissimilarities": dissimilarity_costs,
    "sweep": two_jobs,
    "devices": device_rounds,
}
LONG = ("full-scale", "devices")  # half an hour, and minutes of waiting: only on request


def run(json_file: Path | None, only: Sequence[str], console: Console) -> None:
    """Run the benchmarks and print the figures.

    Parameters
    ----------
    json_file : Path or None
        Where to write the figures.
    only : sequence of str
        Names of measurements; all but the long ones if empty.
    console : Console
        Where to print the figures.

    Raises
    ------
    InputError
        If a measurement is unknown or fails, or the file cannot be written.
    """
    for name in only:
        if name not in MEASUREMENTS:
            raise InputError(unknown("measurement", name, list(MEASUREMENTS)))
    logging.getLogger("flwr").setLevel(logging.WARNING)
    figures: list[Figure] = []
    _write(json_file, figures)
    for name in only or [name for name in MEASUREMENTS if name not in LONG]:
        with console.status(f"measuring: {name}"):
            measured = MEASUREMENTS[name]()
        figures += measured if isinstance(measured, list) else [measured]
        _write(json_file, figures)
    console.print(_table(figures))


def _write(path: Path | None, figures: list[Figure]) -> None:
    if path is None:
        return
    machine = {"cores": os.cpu_count(), "processor": platform.machine(), "torch": torch.__version__}
    kept = [asdict(figure) | {"reached": figure.reached} for figure in figures]
    try:
        path.write_text(json.dumps({"machine": machine, "figures": kept}, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--json {str(path)!r} cannot be written: {error.strerror}") from None


def _table(figures: list[Figure]) -> Table:
    table = Table("figure", "made of", title=f"measured on {os.cpu_count()} cores, torch {torch.__version__}")
    for column in ("measured", "to reach", ""):
        table.add_column(column, justify="right")
    for figure in figures:
        parts = "\n".join(f"{value:.4g} {name}" for name, value in figure.parts.items())
        bound = f"{'at most' if figure.at_most else 'at least'} {figure.bound:g} {figure.unit}".rstrip()
        measured = f"{figure.value:.3g} {figure.unit}".rstrip()
        table.add_row(figure.name, parts, measured, bound, "reached" if figure.reached else "missed")
    return table
