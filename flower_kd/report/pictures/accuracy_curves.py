"""Test accuracy by round and by bytes: plain data in, a matplotlib Figure out.

Figures are made without pyplot, whose state is shared by all threads and which looks for a display.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from flower_kd.errors import InputError
from flower_kd.report.interval import ONE_SEED, RANGE, interval
from flower_kd.report.pictures.style import COLUMN_WIDTH, line_styles, styled

Histories = Mapping[str, Sequence[pd.DataFrame]]

_MAX_FAINT_LINES = 64
_MARKERS_PER_LINE = 8
_CHARACTER, _HANDLE = 0.058, 0.55  # inches: one letter of a legend, and what stands before it


@styled
def accuracy_by_round(histories: Histories, title: str = "") -> Figure:
    """Return test accuracy by round, as wide as a paper's column.

    A bold line is the mean over nodes, then over seeds. Around it are the nodes of a single seed (if many, as a
    band from their 10th to their 90th percentile), or the interval over seeds (`flower_kd.report.interval`).

    Parameters
    ----------
    histories : mapping
        Each label's runs, one per seed: one row per node and round, with the columns `round`, `vertex` and
        `test-accuracy`, NaN where a node was not evaluated.
    title : str
        Above the axes.

    Raises
    ------
    InputError
        If there is no label, or a label without a run.
    """
    return _panel(draw_by_round, histories, title)


@styled
def accuracy_by_bytes(histories: Histories, title: str = "") -> Figure:
    """Return test accuracy by the bytes that a node has sent over all its edges, on a logarithmic axis.

    Parameters
    ----------
    histories : mapping
        As in `accuracy_by_round`, with the column `bytes-all-edges`: cumulative, averaged over nodes.
        Runs that send nothing are a level line at their final accuracy.
    title : str
        Above the axes.

    Raises
    ------
    InputError
        If there is no label, or a label without a run.
    """
    return _panel(draw_by_bytes, histories, title)


def _panel(draw: Callable[[Axes, Histories], list[str]], histories: Histories, title: str) -> Figure:
    """Return a figure of one panel, as wide as a paper's column."""
    check(histories)
    figure = Figure(figsize=(COLUMN_WIDTH, 2.6), layout="constrained")
    axes = figure.add_subplot()
    note = draw(axes, histories)
    axes.set_title("\n".join(textwrap.wrap(title, 60)))
    legend(figure, axes, note, COLUMN_WIDTH)
    return figure


def check(histories: Histories) -> None:
    """Raise InputError if there is nothing to draw."""
    if not histories:
        raise InputError("there is no finished run to draw")
    for label, runs in histories.items():
        if not runs:
            raise InputError(f"there is no finished run of {label!r} to draw")


def draw_by_round(axes: Axes, histories: Histories) -> list[str]:
    """Draw the panel of `accuracy_by_round`, and return what its lines and bands are."""
    styles, names = line_styles(histories), _names(histories)
    runs = {label: [_accuracy(history) for history in found] for label, found in histories.items()}
    num_faint = sum(tables[0].shape[1] for tables in runs.values() if len(tables) == 1)
    notes = [f"line: mean over nodes{_over_seeds(histories)}"]
    for number, (label, tables) in enumerate(runs.items()):
        color = styles[label]["color"]
        means = _means(tables)
        if len(tables) > 1:
            notes.append(_draw_band(axes, means, color))
        elif num_faint > _MAX_FAINT_LINES:
            low, high = (tables[0].quantile(share, axis=1) for share in (0.1, 0.9))
            axes.fill_between(low.index, low, high, color=color, alpha=0.15, linewidth=0)
            notes.append("band: 10th to 90th percentile of the nodes")
        else:
            for vertex in tables[0]:
                axes.plot(tables[0][vertex].dropna(), color=color, alpha=0.3, linewidth=0.5)
            notes.append("faint: each node")
        _draw_line(axes, means.mean(axis=1), names[label], number, styles[label])
    axes.set(xlabel="round", ylabel="test accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    return list(dict.fromkeys(notes))


def draw_by_bytes(axes: Axes, histories: Histories) -> list[str]:
    """Draw the panel of `accuracy_by_bytes`, and return what its lines and bands are."""
    styles, names = line_styles(histories), _names(histories)
    reach: list[float] = []
    notes = [f"line: mean over nodes{_over_seeds(histories)}"]
    for number, (label, runs) in enumerate(histories.items()):
        means = _means([_accuracy(history) for history in runs])
        sent = pd.concat([_sent(history) for history in runs], axis=1).mean(axis=1).reindex(means.index)
        travels = sent > 0  # a logarithmic axis has no zero
        if travels.any():
            means = means[travels].set_axis(sent[travels])
            if len(runs) > 1:
                notes.append(_draw_band(axes, means, styles[label]["color"]))
            _draw_line(axes, means.mean(axis=1), names[label], number, styles[label])
            reach += [sent[travels].min(), sent.max()]
        elif len(means):
            level = styles[label] | {"marker": None}
            axes.axhline(means.mean(axis=1).iloc[-1], label=names[label], **level)  # type: ignore[arg-type]
            notes.append("level line: sends nothing, final accuracy")
    axes.set_ylabel("test accuracy")
    axes.grid()
    if reach:
        _scale_by_bytes(axes, min(reach), max(reach))
    else:
        axes.set(xticks=[], xlabel="no node sends anything")
    return list(dict.fromkeys(notes))


def legend(figure: FigureBase, axes: Axes, notes: Iterable[str], width: float) -> None:
    """Put the labels under the axes, where they cover no line, in as many columns as fit into `width` inches."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = max(1, min(len(labels), int(width / (longest * _CHARACTER + _HANDLE))))
    title = "\n".join(textwrap.wrap("; ".join(notes), int(width / _CHARACTER)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, frameon=False)


def _scale_by_bytes(axes: Axes, low: float, high: float) -> None:
    axes.set_xlabel("sent by a node over all its edges, log scale\n(if neighbors are linked directly)")
    axes.set_xscale("log")
    several_decades = high > 300 * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if several_decades else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))


def _accuracy(history: pd.DataFrame) -> pd.DataFrame:
    """Return test accuracy [rounds, nodes] of the rounds in which any node was evaluated."""
    table = history.pivot(index="round", columns="vertex", values="test-accuracy")
    return table.astype(float).dropna(how="all")


def _sent(history: pd.DataFrame) -> pd.Series:
    """Return the cumulative bytes that a node sent, [rounds], carried forward while a node is absent."""
    table = history.pivot(index="round", columns="vertex", values="bytes-all-edges")
    return table.astype(float).ffill().fillna(0.0).mean(axis=1)


def _means(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return means over nodes, [rounds, seeds], of accuracies [rounds, nodes]."""
    return pd.concat([run.mean(axis=1) for run in runs], axis=1).sort_index()


def _over_seeds(histories: Histories) -> str:
    """Return over how many seeds a line is the mean, as the end of a sentence."""
    counts = {len(runs) for runs in histories.values()}
    if counts == {1}:
        return f", {ONE_SEED}"
    return f" and {counts.pop()} seeds" if len(counts) == 1 else " and seeds"


def _names(histories: Histories) -> dict[str, str]:
    """Return labels as the legend shows them, with the number of seeds if labels differ in it."""
    differ = len({len(runs) for runs in histories.values()}) > 1
    counts = {label: f" ({len(runs)} seed{'s' if len(runs) > 1 else ''})" for label, runs in histories.items()}
    # matplotlib omits labels that begin with an underscore.
    return {label: f"{' ' * label.startswith('_')}{label}{counts[label] if differ else ''}" for label in histories}


def _draw_line(axes: Axes, values: pd.Series, label: str, number: int, style: Mapping[str, object]) -> None:
    """Draw one line, whose markers are not at the same places as those of the others."""
    step = max(1, len(values) // _MARKERS_PER_LINE)
    axes.plot(values, label=label, markevery=(number % step, step), **style)  # type: ignore[arg-type]


def _draw_band(axes: Axes, means: pd.DataFrame, color: object) -> str:
    """Draw the interval over seeds around means [points, seeds], and return what it is."""
    over_seeds = [interval(row) for row in means.to_numpy()]
    low, high = [found.low for found in over_seeds], [found.high for found in over_seeds]
    axes.fill_between(means.index, low, high, color=color, alpha=0.15, linewidth=0)
    kind = interval(range(means.shape[1])).kind
    return f"band: {kind}{' seed' if kind == RANGE else ''}"
