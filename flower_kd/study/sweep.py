"""Every combination of some keys' values, with several seeds: `flower-kd sweep`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from flower_kd import folders
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.report import paper_tables, pictures
from flower_kd.report.formats import as_text
from flower_kd.report.interval import interval
from flower_kd.report.over_seeds import over_seeds
from flower_kd.runs import shortfalls
from flower_kd.study import batch
from flower_kd.study.grid import combinations
from flower_kd.study.job import Outcome
from flower_kd.study.pacing import Pacing
from flower_kd.unused import check_grid, warning

BEST = 5
FIGURES = ("accuracy", "accuracy-std", "bytes-per-edge", "bytes-per-node", "seconds")


class Sweep(batch.Batch):
    """A sweep and its folder.

    Parameters
    ----------
    config : mapping
        The keys of all runs.
    grid : mapping
        Values by key, which override the config's.
    seed_text : str
        See `seeds.parse`.
    num_nodes : int
        Number of nodes.
    folder : Path
        Results folder.

    Raises
    ------
    InputError
        If any of the combinations cannot run.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        grid: Mapping[str, Sequence[Any]],
        seed_text: str,
        num_nodes: int,
        folder: Path,
    ) -> None:
        self.grid = grid
        self._choices = combinations(grid)
        self._writing = Pacing()
        runs = {label: {**config, **choice} for label, choice in self._choices.items()}
        super().__init__("sweep", batch.jobs(runs, seed_text, num_nodes, folder), folder)
        found = batch.problems(self.jobs)
        if found:
            labels = list(dict.fromkeys(label for labels in found.values() for label in labels))
            raise InputError(
                f"{len(labels)} of {len(runs)} combinations cannot run, such as {labels[0]}: {'; '.join(found)}"
            )
        configs = {label: RunConfig.parse(run) for label, run in runs.items()}
        check_grid(grid, configs)
        self.warning = warning(configs.values())
        self._about = {
            "config": dict(config),
            "num_nodes": num_nodes,
            "grid": {key: list(values) for key, values in grid.items()},
            "seeds": list(dict.fromkeys(job.seed for job in self.jobs)),
        }

    def table(self) -> pd.DataFrame:
        """Return the rows of sweep.csv: one per run that ended.

        Columns: the grid's keys; `seed`; `accuracy` and `accuracy-std` over nodes, in [0, 1]; `bytes-per-edge`, what a
        node sends over one edge; `bytes-per-node`, over all its edges; `seconds`; `exchanges-missed`, summed over
        nodes; `error`, empty if the run finished; `folder`.
        """
        columns = [*self.grid, "seed", *FIGURES, "exchanges-missed", "error", "folder"]
        return pd.DataFrame([self._row(outcome) for outcome in self.outcomes], columns=columns)

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        job, summary = outcome.job, outcome.summary
        figures = {}
        if summary is not None:
            figures = {
                "accuracy": summary.accuracy["mean"],
                "accuracy-std": summary.accuracy["std"],
                "bytes-per-edge": summary.bytes["per_edge"],
                "bytes-per-node": summary.bytes["per_node"],
                "seconds": summary.seconds["total"],
            }
        known = {name: np.nan if figures.get(name) is None else figures[name] for name in FIGURES}
        return {
            **self._choices[job.label],
            "seed": job.seed,
            **known,
            "exchanges-missed": shortfalls.missed(summary)[0] if summary is not None else 0,
            "error": outcome.error,
            "folder": job.folder.relative_to(self.folder).as_posix(),
        }

    def best(self) -> Table:
        """Return a table of the best settings for the terminal."""
        accuracies: dict[str, list[float]] = {}
        for outcome in self.outcomes:
            if outcome.summary is not None and outcome.summary.accuracy["mean"] is not None:
                accuracies.setdefault(outcome.job.label, []).append(outcome.summary.accuracy["mean"])
        intervals = {label: interval(values) for label, values in accuracies.items()}
        settings = f"{len(intervals)} setting{'' if len(intervals) == 1 else 's'}"
        shown = Table(title=f"the {BEST} best of {settings}" if len(intervals) > BEST else f"{settings} by accuracy")
        for column in (*self.grid, "accuracy", "interval"):
            shown.add_column(column, justify="right")
        for label in sorted(intervals, key=lambda label: -intervals[label].mean)[:BEST]:
            found = intervals[label]
            words = f"{found.low:.3f} to {found.high:.3f} ({found.kind})"
            values = [Text(as_text(value)) for value in self._choices[label].values()]
            shown.add_row(*values, f"{found.mean:.3f}", words)
        return shown

    def _update(self) -> None:
        if self._writing.due:
            self._write()

    def _write(self) -> None:
        with self._writing.timed():
            table, parquet = self.table(), io.BytesIO()
            table.to_parquet(parquet, index=False)
            parts = {
                "sweep.csv": table.to_csv(index=False, lineterminator="\n").encode(),
                "sweep.parquet": parquet.getvalue(),
            }
            rows = over_seeds(table, list(self.grid), FIGURES)
            parts |= paper_tables.of_sweep(rows, list(self.grid)).files("sweep")
            if table["accuracy"].notna().any():
                parts |= pictures.files(pictures.heat_maps(table, list(self.grid)), "sweep")
            parts["sweep.json"] = json.dumps(self._about, indent=2).encode()  # last: if it exists, so do the others
            folders.write(self.folder, parts)
