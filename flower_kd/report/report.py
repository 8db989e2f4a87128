"""One self-contained HTML page of a run, a comparison or a sweep."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flower_kd import folders
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.report.interval import interval
from flower_kd.report.report_page import MISSING, Column, Order, figures, key_list, note, page, picture, section, table
from flower_kd.runs import results, shortfalls
from flower_kd.runs.results import CONFIG_FILE, Summary

REPORT_FILE = folders.REPORT

# These keys do not affect results, and a page that is shared should not contain local paths.
_NOT_OF_THE_RUN = ("output-dir", "overwrite")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SENT = ("bytes-per-message", "messages-per-edge", "bytes-per-edge", "bytes-per-node")
_D_SGD = ("same-frequency", "every-step")
_FIGURES = ("accuracy", "accuracy-std", "alone", *_SENT, *_D_SGD, "seconds", "exchanges-missed", "diverged")
_BARS = "Bars run from a column's lowest value to its highest."
_LINKED = "over all edges of a node, if neighbors are linked directly (fedavg: over its link to the server)"
_MEANS = "Means are over the seeds that finished; the spread is over nodes."


def write(folder: Path) -> Path:
    """Write report.html into a results folder and return its path.

    Parameters
    ----------
    folder : Path
        The folder of a finished run, a comparison or a sweep.

    Raises
    ------
    InputError
        If the folder contains none of these, or is damaged, or cannot be written to.
    """
    kinds = {"comparison.json": _comparison, "sweep.json": _sweep, "sweep.csv": _sweep, "summary.json": _run}
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder")
    build = next((build for name, build in kinds.items() if (folder / name).exists()), None)
    if build is None:
        raise InputError(
            f"{str(folder)!r} contains nothing to report: no summary.json (finished run), comparison.json (comparison) "
            "or sweep.json (sweep)"
        )
    if (folder / REPORT_FILE).exists() and not folders.is_report(folder):
        raise InputError(f"{str(folder / REPORT_FILE)!r} was not written by flower-kd: move that file")
    # A file name may contain bytes that are not valid text.
    folders.write(folder, {REPORT_FILE: build(folder).encode(errors="xmlcharrefreplace")})
    return folder / REPORT_FILE


# -- a run -------------------------------------------------------------------------------------------------------------


def _run(folder: Path) -> str:
    finished = results.read(folder)
    summary = finished.summary
    with _reading(folder / "summary.json"):
        row, nodes = _figures(summary), _nodes(summary)
    with _reading(folder / "history.csv"):
        rounds = _rounds(finished.history)
    if finished.alone is not None:
        with _reading(folder / "history-silo.csv"):
            rounds["alone"] = _rounds(finished.alone)["test-accuracy"]
    return page(
        f"{summary.strategy} on {summary.dataset}, {summary.topology} of {summary.num_nodes} nodes",
        f"{summary.rounds} rounds, seed {summary.seed}",
        [
            figures(_headline(row, summary)),
            *(note(f"Note: {remark}") for remark in shortfalls.remarks(summary)),
            _picture(folder / "accuracy.png", "Line chart of test accuracy by round, as in the table of rounds"),
            section("Nodes", table("Nodes", list(_node_columns(nodes))), note(_BARS)),
            section("Rounds", table("Rounds", list(_round_columns(rounds))), note("Means and spread are over nodes.")),
            section("Config", _config(finished.config.to_dict())),
        ],
    )


def _headline(row: Mapping[str, float], summary: Summary) -> Iterator[tuple[str, str, str]]:
    yield "accuracy", _percent(row["accuracy"], " %"), f"mean over nodes; spread {_percent(row['accuracy-std'])} points"
    if not np.isnan(row["alone"]):
        gain = _points(row["accuracy"] - row["alone"])
        yield "the same nodes alone", _percent(row["alone"], " %"), f"{gain} points by learning from neighbors"
    if row["bytes-per-edge"]:
        messages = f"{_short(row['messages-per-edge'])} messages of {_short(row['bytes-per-message'] / 1e3)} kB"
        yield "bytes per edge", f"{_megabytes(row['bytes-per-edge'])} MB", f"{messages}, in one direction"
        yield "bytes per node", f"{_megabytes(row['bytes-per-node'])} MB", _LINKED
        as_often, every_step = (_times(row[name]) for name in _D_SGD)
        message = f"{_short(summary.bytes['d_sgd_per_message'] / 1e3)} kB per message"
        yield (
            "D-SGD sends per edge",
            f"{as_often} as much",
            f"at the same frequency; {every_step} when sent in every step; {message}",
        )
    else:
        yield "bytes per edge", "0 MB", "nothing is sent to other nodes"
    yield "time per round", f"{_short(row['seconds'] / summary.rounds)} s", f"{_short(row['seconds'])} s in total"


def _nodes(summary: Summary) -> pd.DataFrame:
    nodes = pd.DataFrame({"accuracy": pd.Series(summary.accuracy["per_node"], dtype=float)})
    if summary.models:
        nodes["model"] = summary.models
    if summary.baseline:
        nodes["alone"] = np.array(summary.baseline["per_node"], dtype=float)
    if shortfalls.missed(summary)[0]:
        nodes["exchanges"] = [f"{part['taken']} of {part['due']}" for part in summary.participation]
    return nodes


def _node_columns(nodes: pd.DataFrame) -> Iterator[Column]:
    yield Column("vertex", nodes.index, order="ascending")
    if "model" in nodes:
        yield Column("model", nodes["model"])
    yield _accuracy_column("accuracy, %", nodes["accuracy"])
    if "alone" in nodes:
        yield _accuracy_column("alone, %", nodes["alone"])
        yield Column("difference, points", nodes["accuracy"] - nodes["alone"], _points, best="highest")
    if "exchanges" in nodes:
        yield Column("exchanges", nodes["exchanges"])


def _rounds(history: pd.DataFrame) -> pd.DataFrame:
    """Return one row per round: means over nodes of their metrics, and the spread of their accuracy."""
    columns = history.columns.union(["test-accuracy"])  # missing if no node was ever evaluated
    by_round = history.reindex(columns=columns).groupby("round")
    return by_round.mean().assign(spread=by_round["test-accuracy"].std(ddof=0))


def _round_columns(rounds: pd.DataFrame) -> Iterator[Column]:
    yield Column("round", rounds.index, order="ascending")
    yield _accuracy_column("accuracy, %", rounds["test-accuracy"])
    yield Column("spread, points", rounds["spread"], _percent)
    if "alone" in rounds:
        yield _accuracy_column("alone, %", rounds["alone"])
    for name in ("train-loss", "kd-loss", "test-loss"):
        if name in rounds:
            yield Column(name, rounds[name], "{:.3f}".format)
    if "bytes-shared" in rounds:
        yield Column("sent so far, MB per edge", rounds["bytes-shared"], _megabytes)
    if "bytes-all-edges" in rounds:
        yield Column("sent so far, MB per node", rounds["bytes-all-edges"], _megabytes)


# -- a comparison ------------------------------------------------------------------------------------------------------


def _comparison(folder: Path) -> str:
    with _reading(folder / "comparison.json") as path:
        finished = _compared(json.loads(path.read_text()))
    with _reading(folder / "failed.json") as path:
        failed = [{key: run[key] for key in ("run", "seed", "error")} for run in json.loads(path.read_text())]
    configs = []
    for run in finished:
        with _reading(folder / run["folder"] / CONFIG_FILE) as path:
            configs.append(tomllib.loads(path.read_text()))
    columns = ["run", "seed", *_FIGURES, "error", "folder"]
    runs = pd.DataFrame([*finished, *failed], columns=columns)
    rows = _over_seeds(runs, ["run"])
    alt = "Charts of test accuracy by round and by bytes for each label, as in the tables"
    return page(
        f"Comparison: {', '.join(rows['run'].sort_index())}",
        "Runs with the same label differ only in their seed",
        [
            figures(_overview(rows, lambda row: row["run"])),
            section("Results", *_results(rows, ["run"])),
            _picture(folder / "comparison.png", alt),
            *_failures(runs, ["run"]),
            section("Runs", table("Runs", list(_run_columns(runs[runs["error"] == ""])))),
            *_configs([run["run"] for run in finished], configs),
        ],
    )


def _compared(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of each run in a comparison.json."""
    runs = []
    for entry in entries:
        fields = dict(entry)
        run = {"run": str(fields.pop("run")), "folder": str(fields.pop("folder"))}
        summary = Summary(**fields)
        runs.append({**run, "seed": summary.seed, "error": "", **_figures(summary)})
    return runs


def _run_columns(runs: pd.DataFrame) -> Iterator[Column]:
    yield Column("label", runs["run"])
    yield Column("seed", runs["seed"])
    yield _accuracy_column("accuracy, %", runs["accuracy"])
    yield Column("spread, points", runs["accuracy-std"], _percent)
    if runs["alone"].notna().any():
        yield _accuracy_column("alone, %", runs["alone"])
    yield Column("MB per edge", runs["bytes-per-edge"], _megabytes)
    yield from _shortfall_columns(runs)
    yield Column("seconds", runs["seconds"], _short)
    yield Column("folder", runs["folder"])


def _shortfall_columns(rows: pd.DataFrame) -> Iterator[Column]:
    """Yield columns for missed exchanges and diverged nodes, if there are any."""
    for name, title in (("exchanges-missed", "exchanges missed"), ("diverged", "nodes diverged")):
        if name in rows and rows[name].gt(0).any():
            yield Column(title, rows[name], _short)


def _configs(labels: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield sections for what the configs of several runs have in common and where they differ."""
    if not configs:
        return
    texts = pd.DataFrame([{key: _toml(value) for key, value in config.items()} for config in configs])
    texts = texts.drop(columns=list(_NOT_OF_THE_RUN), errors="ignore").fillna(MISSING)
    varied = [key for key in texts if texts[key].nunique() > 1]
    if varied:
        by_label = texts[varied].groupby(np.array(labels), sort=False).agg(lambda values: ", ".join(values.unique()))
        columns = [Column("label", by_label.index), *(Column(key, by_label[key]) for key in varied)]
        yield section("Config: where the runs differ", table("Where the runs differ", columns))
    shared = {key: value for key, value in configs[0].items() if key not in varied}
    yield section("Config: common to all runs", _config(shared))


# -- a sweep -----------------------------------------------------------------------------------------------------------


def _sweep(folder: Path) -> str:
    with _reading(folder / "sweep.json") as path:
        sweep = json.loads(path.read_text())
        grid = {key: ", ".join(_toml(value) for value in values) for key, values in sweep["grid"].items()}
        config = RunConfig().to_dict() | sweep["config"]
        lead = f"{sweep['num_nodes']} nodes, seeds {', '.join(str(seed) for seed in sweep['seeds'])}"
    with _reading(folder / "sweep.csv") as path:
        runs = _swept(path, list(grid))
    rows = _over_seeds(runs, list(grid))
    common = {key: value for key, value in config.items() if key not in {*grid, "seed"}}
    columns = [Column("key", list(grid)), Column("values", list(grid.values()))]
    return page(
        f"Sweep of {', '.join(grid)}",
        lead,
        [
            figures(_overview(rows, lambda row: ", ".join(f"{key} = {_plain(row[key])}" for key in grid))),
            section("Settings", *_results(rows, list(grid))),
            _picture(folder / "sweep.png", "Heat maps of mean test accuracy by setting, as in the table of settings"),
            *_failures(runs, list(grid)),
            section("Grid", table("Grid", columns)),
            section("Config: common to all runs", _config(common)),
        ],
    )


def _swept(path: Path, keys: Sequence[str]) -> pd.DataFrame:
    """Return the runs of a sweep.csv; strings such as "none", and empty ones, are ordinary values."""
    if not keys:
        raise ValueError("the grid of sweep.json is empty")
    figures_of = ["accuracy", "accuracy-std", "bytes-per-edge", "bytes-per-node", "seconds", "exchanges-missed"]
    runs = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in figures_of})
    return runs[[*keys, "seed", *figures_of, "error"]].astype(dict.fromkeys(figures_of, float))


# -- shared by comparisons and sweeps: finished and failed runs, by setting and seed -----------------------------------


def _over_seeds(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return one row per setting, the most accurate first: means over the finished seeds."""
    means = [name for name in _FIGURES if name in runs]
    rows = []
    for setting, of_setting in runs.groupby(list(keys), sort=False, dropna=False):
        finished = of_setting[of_setting["error"] == ""]
        over_seeds = interval(finished["accuracy"].astype(float))
        row = dict(zip(keys, setting, strict=True)) | {name: finished[name].astype(float).mean() for name in means}
        row["interval"] = (over_seeds.low, over_seeds.high) if finished["accuracy"].count() > 1 else None
        row |= {"kind": over_seeds.kind, "finished": len(finished), "failed": len(of_setting) - len(finished)}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*keys, *means, "interval", "kind", "finished", "failed"])
    return frame.sort_values("accuracy", ascending=False, kind="stable")


def _overview(rows: pd.DataFrame, describe: Callable[[pd.Series], str]) -> Iterator[tuple[str, str, str]]:
    finished = rows[rows["accuracy"].notna()]
    if not finished.empty:
        best = finished.iloc[0]
        yield "highest accuracy", _percent(best["accuracy"], " %"), describe(best)
    yield "runs finished", str(rows["finished"].sum()), f"{rows['failed'].sum()} failed"


def _results(rows: pd.DataFrame, keys: Sequence[str]) -> Iterator[str]:
    columns = [Column("label" if key == "run" else key, rows[key], _plain) for key in keys]
    columns.append(_accuracy_column("accuracy, %", rows["accuracy"], order="descending"))
    columns.append(
        Column("over seeds, %", rows["interval"], lambda ends: f"{_percent(ends[0])} to {_percent(ends[1])}")
    )
    columns.append(Column("spread, points", rows["accuracy-std"], _percent, best="lowest"))
    remarks = [f"Over seeds: {'; '.join(rows['kind'].unique())}.", _MEANS, _BARS]
    if "bytes-per-message" in rows:
        columns.append(Column("kB per message", rows["bytes-per-message"] / 1e3, _short))
        columns.append(Column("messages per edge", rows["messages-per-edge"], _short))
    columns.append(Column("MB per edge", rows["bytes-per-edge"], _megabytes, best="lowest"))
    columns.append(Column("MB per node", rows["bytes-per-node"], _megabytes, best="lowest"))
    remarks.append(f"Per node: {_LINKED}.")
    if set(_D_SGD) <= set(rows):
        columns += [Column(f"D-SGD {name.replace('-', ' ')}, times", rows[name], _short) for name in _D_SGD]
        remarks.append(
            "D-SGD: how many times as much its weights would take per edge, at the same frequency and in every step."
        )
    columns += _shortfall_columns(rows)
    columns.append(Column("seconds", rows["seconds"], _short))
    columns.append(Column("seeds", rows["finished"]))
    if rows["failed"].any():
        columns.append(Column("failed", rows["failed"]))
    yield table("Results", columns)
    yield note(" ".join(remarks))


def _failures(runs: pd.DataFrame, keys: Sequence[str]) -> Iterator[str]:
    failed = runs[runs["error"] != ""]
    if not failed.empty:
        columns = [Column("label" if key == "run" else key, failed[key], _plain) for key in (*keys, "seed", "error")]
        yield section("Failed runs", table("Failed runs", columns))


# -- parts of all pages ------------------------------------------------------------------------------------------------


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Report errors while reading a file in one sentence."""
    try:
        yield path
    except FileNotFoundError:
        raise InputError(f"the report needs {str(path)!r}, which does not exist") from None
    except KeyError as error:
        raise InputError(f"{str(path)!r} is damaged: it lacks {' '.join(str(error).split())}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is damaged: {' '.join(str(error).split())}") from None


def _figures(summary: Summary) -> dict[str, float]:
    """Return the figures of a run, named as in sweep.csv where it has them; NaN if missing."""
    alone = summary.baseline or {"mean": None}
    values = {
        "accuracy": summary.accuracy["mean"],
        "accuracy-std": summary.accuracy["std"],
        "alone": alone["mean"],
        "bytes-per-message": summary.bytes["per_message"],
        "messages-per-edge": summary.bytes["messages_per_edge"],
        "bytes-per-edge": summary.bytes["per_edge"],
        "bytes-per-node": summary.bytes["per_node"],
        "same-frequency": summary.d_sgd_ratio("d_sgd_same_frequency_per_edge"),
        "every-step": summary.d_sgd_ratio("d_sgd_per_edge"),
        "seconds": summary.seconds["total"],
        "exchanges-missed": shortfalls.missed(summary)[0],
        "diverged": len(summary.diverged),
    }
    return {name: np.nan if value is None else float(value) for name, value in values.items()}


def _picture(path: Path, alt: str) -> str:
    """Return a picture in the folder, or nothing if it does not exist."""
    if not path.exists():
        return ""
    with _reading(path):
        content = path.read_bytes()
        if not content.startswith(_PNG_SIGNATURE):
            raise ValueError("it is not a PNG picture")
    return picture(content, alt)


def _config(values: Mapping[str, Any]) -> str:
    """Return a config's keys: first the changed ones with their defaults, then the others."""
    defaults = RunConfig().to_dict()
    run_values = {key: value for key, value in values.items() if key not in _NOT_OF_THE_RUN}
    changed = [key for key, value in run_values.items() if key not in defaults or value != defaults[key]]
    rest = {key: _toml(value) for key, value in run_values.items() if key not in changed}
    if not changed:
        return note("All keys have their defaults:") + key_list(rest)
    columns = [
        Column("changed key", changed),
        Column("value", [_toml(run_values[key]) for key in changed]),
        Column("default", [_toml(defaults[key]) if key in defaults else None for key in changed]),
    ]
    return table("Changed keys", columns) + note("All other keys have their defaults:") + key_list(rest)


def _accuracy_column(title: str, values: pd.Series, order: Order = None) -> Column:
    return Column(title, values, _percent, best="highest", bar=True, order=order)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def _percent(value: float, unit: str = "") -> str:
    return MISSING if np.isnan(value) else f"{100 * value:.1f}{unit}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _times(ratio: float) -> str:
    return f"{ratio:,.1f} times"


def _megabytes(count: float) -> str:
    return _short(count / 1e6)


def _short(value: float) -> str:
    """Return a number with three significant digits, or all its integer digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else np.format_float_positional(value, 3, fractional=False, trim="-")
