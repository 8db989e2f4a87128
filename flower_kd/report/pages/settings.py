"""The config on a page: first the changed keys with their defaults, then the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flower_kd.config import RunConfig
from flower_kd.report.formats import MISSING, as_toml
from flower_kd.report.pages.elements import Column, Table
from flower_kd.unused import effective

# These keys do not affect results, and a page that is shared should not contain local paths.
_NOT_OF_THE_RUN = ("output-dir", "overwrite", "resume")
_MAX_COLUMNS = 6  # more keys than these would be wider than the page


@dataclass(frozen=True)
class Settings:
    """The table of changed keys, None if there are none, and the values of all others."""

    changed: Table | None
    rest: Mapping[str, str]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Return a config's keys."""
        defaults = RunConfig().to_dict()
        run_values = {key: value for key, value in values.items() if key not in _NOT_OF_THE_RUN}
        changed = [key for key, value in run_values.items() if key not in defaults or value != defaults[key]]
        rest = {key: as_toml(value) for key, value in run_values.items() if key not in changed}
        columns = [
            Column("changed key", changed),
            Column("value", [as_toml(run_values[key]) for key in changed]),
            Column("default", [as_toml(defaults[key]) if key in defaults else None for key in changed]),
        ]
        return cls(Table.of("Changed keys", columns) if changed else None, rest)


def differences(labels: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> tuple[Table | None, Settings | None]:
    """Return where the configs of several runs differ, and what they have in common.

    Keys without effect in a run do not count there; those without effect in all runs are left out.
    """
    if not configs:
        return None, None
    kept = [key for key in RunConfig().to_dict() if key not in _NOT_OF_THE_RUN]
    used = [effective(config) for config in configs]
    texts = pd.DataFrame([{key: as_toml(value) for key, value in values.items()} for values in used])
    varied = [key for key in kept if key in texts and texts[key].nunique() > 1]
    every = {key: value for values in used for key, value in values.items()}
    shared = Settings.of({key: every[key] for key in kept if key in every and key not in varied})
    if not varied:
        return None, shared
    by_label = texts[varied].fillna(MISSING).groupby(np.array(labels), sort=False)
    by_label = by_label.agg(lambda values: ", ".join(values.unique()))
    if len(varied) <= _MAX_COLUMNS:
        columns = [Column(key, by_label[key]) for key in varied]
    else:
        pairs = [", ".join(f"{key} = {value}" for key, value in row.items()) for _, row in by_label.iterrows()]
        columns = [Column("keys", pairs)]
    return Table.of("Where the runs differ", [Column("label", by_label.index), *columns]), shared
