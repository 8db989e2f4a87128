"""The pictures that every run leaves."""

from __future__ import annotations

import pandas as pd

from flower_kd.runs.results import RunRecord


def draw(record: RunRecord | None, baseline: RunRecord | None) -> dict[str, bytes]:
    """Return the picture files of a run, finished or not, by name; none if no node was evaluated."""
    lines: dict[str, list[pd.DataFrame]] = {}
    title = ""
    for label, run in (("", record), ("alone", baseline)):
        if run is None or not run.metrics:
            continue
        rows = run.history()
        if "test-accuracy" in rows:
            lines[label or run.config.strategy] = [rows]
            title = f"{run.config.dataset}, {run.config.topology}"
    if not lines:
        return {}
    from flower_kd.report import pictures  # importing matplotlib takes half a second

    return pictures.files(pictures.accuracy_by_round(lines, title), "accuracy")
