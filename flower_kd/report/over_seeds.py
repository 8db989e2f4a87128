"""The runs of a comparison or a sweep by setting: means over the seeds that finished."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from flower_kd.report.interval import interval


def over_seeds(runs: pd.DataFrame, keys: Sequence[str], figures: Sequence[str]) -> pd.DataFrame:
    """Return one row per setting.

    Parameters
    ----------
    runs : DataFrame
        One row per run, with the columns `accuracy` and `error`, which is empty if the run finished.
    keys : sequence of str
        The columns that make a setting.
    figures : sequence of str
        The columns of which to take means.

    Returns
    -------
    DataFrame
        The keys; the means; `low`, `high` and `kind` of the interval of the accuracy; `finished` and `failed`, how
        many runs did. Settings are in the order of their first run.
    """
    rows = []
    for setting, of_setting in runs.groupby(list(keys), sort=False, dropna=False):
        finished = of_setting[of_setting["error"] == ""]
        accuracy = interval(finished["accuracy"].astype(float).to_numpy())
        rows.append(
            dict(zip(keys, setting, strict=True))
            | {name: finished[name].astype(float).mean() for name in figures}
            | {"low": accuracy.low, "high": accuracy.high, "kind": accuracy.kind}
            | {"finished": len(finished), "failed": len(of_setting) - len(finished)}
        )
    return pd.DataFrame(rows, columns=[*keys, *figures, "low", "high", "kind", "finished", "failed"])
