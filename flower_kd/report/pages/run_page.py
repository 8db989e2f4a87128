"""The page of a run: of one that finished, and of one that did not, as far as it went."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from flower_kd.errors import InputError
from flower_kd.report.formats import megabytes, percent, points, short, times
from flower_kd.report.pages.elements import Column, Figure, Picture, Table, accuracy_column
from flower_kd.report.pages.page import Page
from flower_kd.report.pages.reading import reading
from flower_kd.report.pages.seeds import PER_NODE
from flower_kd.report.pages.settings import Settings
from flower_kd.runs import results, shortfalls
from flower_kd.runs.results import Summary

D_SGD = ("same-frequency", "every-step")
FIGURES = (
    *("accuracy", "accuracy-std", "head-1", "alone", "bytes-per-message", "messages-per-edge", "bytes-per-edge"),
    *("bytes-per-node", *D_SGD, "seconds", "exchanges-missed", "diverged"),
)
_ALT = "Line chart of test accuracy by round, as in the table of rounds"


def finished_run(folder: Path) -> Page:
    """Return the page of a finished run; raises InputError if its files are damaged."""
    finished = results.read(folder)
    summary = finished.summary
    with reading(folder / "summary.json"):
        row, nodes = figures_of(summary), _nodes(summary)
    with reading(folder / "history.csv"):
        rounds = _rounds(finished.history)
    if finished.alone is not None:
        with reading(folder / "history-silo.csv"):
            rounds["alone"] = _rounds(finished.alone)["test-accuracy"]
    return Page(
        "run",
        f"{summary.strategy} on {summary.dataset}, {summary.topology} of {summary.num_nodes} nodes",
        f"{summary.rounds} rounds, seed {summary.seed}",
        {
            "headline": list(_headline(row, summary)),
            "remarks": list(shortfalls.remarks(summary)),
            **_common(folder, nodes, rounds),
            "config": Settings.of(finished.config.to_dict() | {"num-nodes": summary.num_nodes}),
        },
    )


def unfinished_run(folder: Path) -> Page:
    """Return the page of a run that was interrupted or failed; raises InputError if no round of it was evaluated."""
    config = results.read_config(folder)
    history, alone = (_read_history(folder / name) for name in ("history.csv", "history-silo.csv"))
    if history.empty and alone.empty:
        raise InputError(
            f"{str(folder)!r} contains a run of which no round was finished: there is nothing to report, and it can be "
            "continued with --resume (resume=true)"
        )
    with reading(folder / "history.csv"):
        rounds = _rounds(history)
        last = history[history["round"] == history["round"].max()]
        accuracy = last.set_index("vertex").reindex(columns=["test-accuracy"])["test-accuracy"].astype(float)
        nodes = pd.DataFrame({"accuracy": accuracy})
    with reading(folder / "history-silo.csv"):
        if not alone.empty:
            rounds = rounds.reindex(rounds.index.union(alone["round"].unique()))
            rounds["alone"] = _rounds(alone)["test-accuracy"]
    done = 0 if history.empty else int(history["round"].max())
    finished = f"{done} of {config.num_server_rounds}"
    return Page(
        "run",
        f"{config.strategy} on {config.dataset}, {config.topology} (unfinished)",
        f"{finished} rounds, seed {config.seed}",
        {
            "headline": [
                Figure("rounds", finished, "the run was interrupted or failed"),
                Figure("accuracy so far", percent(nodes["accuracy"].mean(), " %"), f"mean over nodes, round {done}"),
            ],
            "remarks": ["this run did not finish; it can be continued with --resume (resume=true)"],
            **_common(folder, nodes, rounds),
            "config": Settings.of(config.to_dict()),
        },
    )


def figures_of(summary: Summary) -> dict[str, float]:
    """Return the figures of a run, named as in sweep.csv where it has them; NaN if missing."""
    alone = summary.baseline or {"mean": None}
    values = {
        "accuracy": summary.accuracy["mean"],
        "accuracy-std": summary.accuracy["std"],
        "head-1": (summary.head_1 or {"mean": None})["mean"],
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


def _common(folder: Path, nodes: pd.DataFrame, rounds: pd.DataFrame) -> dict[str, object]:
    return {
        "picture": Picture.read(folder / "accuracy.png", _ALT),
        "nodes": Table.of("Nodes", list(_node_columns(nodes))),
        "rounds": Table.of("Rounds", list(_round_columns(rounds))),
        "per_node": f"MB per node: {PER_NODE}.",
    }


def _headline(row: Mapping[str, float], summary: Summary) -> Iterator[Figure]:
    spread = f"mean over nodes; spread {percent(row['accuracy-std'])} points"
    yield Figure("accuracy", percent(row["accuracy"], " %"), spread)
    if not np.isnan(row["head-1"]):
        gain = points(row["accuracy"] - row["head-1"])
        yield Figure("head 1", percent(row["head-1"], " %"), f"{gain} points by head 2, which learned from neighbors")
    if not np.isnan(row["alone"]):
        gain = points(row["accuracy"] - row["alone"])
        yield Figure("the same nodes alone", percent(row["alone"], " %"), f"{gain} points by learning from neighbors")
    if row["bytes-per-edge"]:
        count = row["messages-per-edge"]
        messages = f"{short(count)} message{'' if count == 1 else 's'} of {short(row['bytes-per-message'] / 1e3)} kB"
        yield Figure("bytes per edge", f"{megabytes(row['bytes-per-edge'])} MB", f"{messages}, in one direction")
        yield Figure("bytes per node", f"{megabytes(row['bytes-per-node'])} MB", PER_NODE)
        as_often, every_step = (times(row[name]) for name in D_SGD)
        message = f"{short(summary.bytes['d_sgd_per_message'] / 1e3)} kB per message"
        yield Figure(
            "D-SGD sends per edge",
            f"{as_often} as much",
            f"at the same frequency; {every_step} when sent in every step; {message}",
        )
    else:
        yield Figure("bytes per edge", "0 MB", "nothing is sent to other nodes")
    if loss := summary.privacy:
        words = f"at delta {loss['delta']:g}, for all data of a node; messages with noise: {loss['messages']:,}"
        seeded = "; drawn from the run's seed, it protects nothing" if loss["seeded_nodes"] else ""
        yield Figure("epsilon", f"{loss['epsilon']:.4g}", words + seeded)
    seconds = row["seconds"]
    yield Figure("time per round", f"{short(seconds / summary.rounds)} s", f"{short(seconds)} s in total")


def _nodes(summary: Summary) -> pd.DataFrame:
    nodes = pd.DataFrame({"accuracy": pd.Series(summary.accuracy["per_node"], dtype=float)})
    if summary.models:
        nodes["model"] = summary.models
    if kept := summary.kept():
        nodes["kept"] = pd.Series(kept)
    if summary.head_1:
        nodes["head 1"] = np.array(summary.head_1["per_node"], dtype=float)
    if summary.baseline:
        nodes["alone"] = np.array(summary.baseline["per_node"], dtype=float)
    if shortfalls.missed(summary)[0]:
        nodes["exchanges"] = [f"{part['taken']} of {part['due']}" for part in summary.participation]
    if summary.head_1 and any(before := summary.head_1.get("stopped", [])):
        nodes["head 1 stopped"] = np.array(before, dtype=float)
    if any(summary.stopped):
        nodes["stopped"] = np.array(summary.stopped, dtype=float)
    return nodes


def _node_columns(nodes: pd.DataFrame) -> Iterator[Column]:
    yield Column("vertex", nodes.index, order="ascending")
    if "model" in nodes:
        yield Column("model", nodes["model"])
    if "kept" in nodes:
        yield Column("parameters kept", nodes["kept"])
    yield accuracy_column("accuracy, %", nodes["accuracy"])
    if "head 1" in nodes:
        yield accuracy_column("head 1, %", nodes["head 1"])
    if "alone" in nodes:
        yield accuracy_column("alone, %", nodes["alone"])
        yield Column("difference, points", nodes["accuracy"] - nodes["alone"], points, best="highest")
    if "exchanges" in nodes:
        yield Column("exchanges", nodes["exchanges"])
    if "head 1 stopped" in nodes:
        yield Column("head 1 stopped after round", nodes["head 1 stopped"], short)
    if "stopped" in nodes:
        yield Column("stopped after round", nodes["stopped"], short)


def _read_history(path: Path) -> pd.DataFrame:
    """Return the rows of a history up to the last whole line: a killed process may have left part of one."""
    with reading(path):
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        return pd.read_csv(io.BytesIO(whole)) if whole else pd.DataFrame(columns=["round", "vertex"], dtype=float)


def _rounds(history: pd.DataFrame) -> pd.DataFrame:
    """Return one row per round: means over nodes of their metrics, and the spread of their accuracy."""
    columns = history.columns.union(["test-accuracy"])  # missing if no node was ever evaluated
    by_round = history.reindex(columns=columns).groupby("round")
    return by_round.mean().assign(spread=by_round["test-accuracy"].std(ddof=0))


def _round_columns(rounds: pd.DataFrame) -> Iterator[Column]:
    yield Column("round", rounds.index, order="ascending")
    yield accuracy_column("accuracy, %", rounds["test-accuracy"])
    yield Column("spread, points", rounds["spread"], percent, hint="standard deviation over nodes")
    if "alone" in rounds:
        yield accuracy_column("alone, %", rounds["alone"])
    for name in ("train-loss", "kd-loss", "test-loss", "label-gradient", "kd-gradient"):
        if name in rounds:
            yield Column(name, rounds[name], short if name.endswith("gradient") else "{:.3f}".format)
    if "bytes-shared" in rounds:
        yield Column("sent so far, MB per edge", rounds["bytes-shared"], megabytes)
    if "bytes-all-edges" in rounds:
        yield Column("sent so far, MB per node", rounds["bytes-all-edges"], megabytes)
