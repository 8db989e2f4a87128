"""The runs of a comparison: strategies by name, or the tables of an experiment file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.common.config import flatten_dict

from flower_kd.errors import InputError, unknown
from flower_kd.parts import text as part_text

Runs = dict[str, dict[str, Any]]


def of_strategies(text: str, config: Mapping[str, Any]) -> Runs:
    """Return one run config per strategy.

    Parameters
    ----------
    text : str
        Comma-separated strategies, which may have settings in parentheses.
    config : mapping
        The other keys of all runs.

    Raises
    ------
    InputError
        If a name is unknown or repeated, or the config has the key `strategy`.
    """
    _check_common(config)
    from flower_kd.strategies import STRATEGIES  # with torch, for which reading a file need not wait

    try:
        names = part_text.split(text)
    except ValueError as problem:
        raise InputError(f"--strategies {text!r} cannot be read: {problem}") from None
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--strategies lists {name!r} twice")
        try:
            STRATEGIES.get(name)
        except InputError as problem:
            raise InputError(f"--strategies: {problem}") from None
    return {name: {**config, "strategy": name} for name in names}


def read(path: Path, config: Mapping[str, Any], only: str = "", scale: str = "") -> Runs:
    """Return the run configs of an experiment file by label.

    Parameters
    ----------
    path : Path
        A TOML file with the keys of all runs in [common] and those of each run in [runs.LABEL]. [scale.NAME] overrides
        [common], and [scale.NAME.runs.LABEL] overrides [runs.LABEL], if that scale is asked for.
    config : mapping
        Keys that override the file's.
    only : str
        Comma-separated labels; empty for all.
    scale : str
        One of the file's scales; empty for the runs as they are.

    Raises
    ------
    InputError
        If the file cannot be read or has another structure, a label or the scale is unknown, a label is repeated, or
        the config has the key `strategy`.
    """
    _check_common(config)
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"experiment {str(path)!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"experiment {str(path)!r} is not a valid TOML file: {' '.join(str(error).split())}") from None
    unexpected = next((name for name in tables if name not in ("common", "runs", "scale")), None)
    if unexpected is not None:
        raise InputError(
            f"experiment {str(path)!r} has an unknown top-level key {unexpected!r} (allowed: [common], [runs.LABEL], "
            "[scale.NAME])"
        )
    common, runs = tables.get("common", {}), tables.get("runs", {})
    if not isinstance(runs, dict) or not all(isinstance(table, dict) for table in (common, *runs.values())):
        raise InputError(f"experiment {str(path)!r}: [common] and each [runs.LABEL] must be a table")
    if not runs:
        raise InputError(f"experiment {str(path)!r} has no runs: each run needs a table [runs.LABEL]")
    of_scale = _scale(tables.get("scale", {}), scale, f"experiment {str(path)!r}", runs) if scale else {}
    runs_of_scale = of_scale.pop("runs", {})
    labels = _names(only, list(runs), "run", "--only") if only else list(runs)
    try:
        shared = {**flatten_dict(common), **flatten_dict(of_scale)}
        own = {label: {**flatten_dict(runs[label]), **flatten_dict(runs_of_scale.get(label, {}))} for label in labels}
        return {label: {**shared, **own[label], **config} for label in labels}
    except ValueError as error:
        raise InputError(f"experiment {str(path)!r}: {' '.join(str(error).split())}") from None


def num_nodes(runs: Runs) -> int:
    """Return the number of nodes that the runs are for; 0 if they leave it open.

    Raises
    ------
    InputError
        If they are for different numbers.
    """
    found = {config["num-nodes"]: label for label, config in runs.items() if config.get("num-nodes")}
    if len(found) > 1:
        words = ", ".join(f"{label!r} for {nodes!r}" for nodes, label in found.items())
        raise InputError(f"the runs of a comparison need one number of nodes, but {words}")
    return next(iter(found), 0)


def _scale(scales: Any, name: str, owner: str, runs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a scale; raises InputError if there is none, or it has another structure."""
    if not isinstance(scales, dict) or name not in scales:
        if not scales or not isinstance(scales, dict):
            raise InputError(f"scale {name!r}: {owner} has no scales")
        raise InputError(f"{owner}: {unknown('scale', name, list(scales))}")
    table = scales[name]
    of_runs = table.get("runs", {}) if isinstance(table, dict) else None
    if not isinstance(of_runs, dict) or not all(isinstance(run, dict) for run in of_runs.values()):
        raise InputError(f"{owner}: [scale.{name}] and each [scale.{name}.runs.LABEL] must be a table")
    for label in of_runs:
        if label not in runs:
            raise InputError(f"{owner}: [scale.{name}.runs.{label}]: {unknown('run', label, list(runs))}")
    return dict(table)


def _check_common(config: Mapping[str, Any]) -> None:
    """Raise InputError if the keys of all runs of a comparison would make them one."""
    if "strategy" in config:
        raise InputError(
            f"strategy = {config['strategy']!r} cannot be set for all runs of a comparison: use --only for some runs "
            "of an experiment, or --strategies without an experiment"
        )


def _names(text: str, allowed: list[str], kind: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in allowed:
            raise InputError(f"{option}: {unknown(kind, name, allowed)}")
        if names.count(name) > 1:
            raise InputError(f"{option} lists {name!r} twice")
    return names
