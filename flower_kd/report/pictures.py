"""Figures of runs, comparisons, sweeps and graphs: plain data in, a matplotlib Figure out.

Figures are made without pyplot, whose state is shared by all threads and which looks for a display.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.typing import ColorType
from scipy.sparse import diags_array
from scipy.sparse.linalg import eigsh

from flower_kd.errors import InputError

Histories = Mapping[str, Sequence[pd.DataFrame]]
Finals = Mapping[str, tuple[nx.Graph, Sequence[float | None]]]

# Okabe and Ito's colors, which color-blind readers can tell apart, with gray for their yellow, too pale for a line.
# There is one more marker than colors, so that labels beyond the eighth differ from those with the same color.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vPX<>"
_ACCURACY_COLORS = "viridis"
_UNKNOWN_COLOR = "lightgray"

_MAX_FAINT_LINES = 64
_MAX_HEAT_MAPS = 24
_MAX_COLUMNS = 5
_MAX_KAMADA_KAWAI = 200
_MAX_ARROWS = 2000
_MAX_VERTEX_NAMES = 40


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file; the same figure gives the same bytes."""
    image = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of runs and folders may contain a $, which is not a formula
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # an empty box is good enough
        figure.savefig(image, format="png", dpi=120, metadata={"Software": None})
    return image.getvalue()


# -- accuracy ----------------------------------------------------------------------------------------------------------


def accuracy_by_round(histories: Histories, title: str = "") -> Figure:
    """Return test accuracy by round.

    A bold line is the mean over nodes, then over seeds. Around it are the nodes of a single seed (if many, as a
    band from their 10th to their 90th percentile), or a band from the lowest to the highest seed.

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
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    note = _draw_by_round(axes, histories)
    axes.set_title(title)
    _legend(figure, axes, note)
    return figure


def accuracy_by_bytes(histories: Histories, title: str = "") -> Figure:
    """Return test accuracy by the bytes that a node has sent over all its edges, on a logarithmic axis.

    Parameters
    ----------
    histories : mapping
        As in `accuracy_by_round`, with the column `bytes-all-edges`: cumulative, averaged over nodes.
        Runs that send nothing are a dashed line at their final accuracy.
    title : str
        Above the axes.

    Raises
    ------
    InputError
        If there is no label, or a label without a run.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    _draw_by_bytes(axes, histories)
    axes.set_title(title)
    _legend(figure, axes, "mean over nodes and seeds")
    return figure


def _draw_by_round(axes: Axes, histories: Histories) -> str:
    """Draw the panel of `accuracy_by_round`, and return what its lines and bands are."""
    styles = _styles(histories)
    runs = {label: [_accuracy(history) for history in found] for label, found in histories.items()}
    num_faint = sum(tables[0].shape[1] for tables in runs.values() if len(tables) == 1)
    notes = {"bold: mean over nodes and seeds": None}
    for label, tables in runs.items():
        color, marker = styles[label]
        means = _means(tables)
        if len(tables) > 1:
            _band(axes, means.min(axis=1), means.max(axis=1), color)
            notes["band: lowest to highest seed"] = None
        elif num_faint > _MAX_FAINT_LINES:
            _band(axes, tables[0].quantile(0.1, axis=1), tables[0].quantile(0.9, axis=1), color)
            notes["band: 10th to 90th percentile of the nodes"] = None
        else:
            for vertex in tables[0]:
                axes.plot(tables[0][vertex].dropna(), color=color, alpha=0.25, linewidth=0.8)
            notes["faint: each node"] = None
        _line(axes, means.mean(axis=1), label, color, marker)
    axes.set(xlabel="round", ylabel="test accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return ", ".join(notes)


def _draw_by_bytes(axes: Axes, histories: Histories) -> None:
    """Draw the panel of `accuracy_by_bytes`."""
    styles = _styles(histories)
    reach: list[float] = []
    for label, runs in histories.items():
        color, marker = styles[label]
        means = _means([_accuracy(history) for history in runs])
        accuracy = means.mean(axis=1)
        sent = pd.concat([_sent(history) for history in runs], axis=1).mean(axis=1).reindex(accuracy.index)
        travels = sent > 0  # a logarithmic axis has no zero
        if travels.any():
            means, accuracy = (table[travels].set_axis(sent[travels]) for table in (means, accuracy))
            if len(runs) > 1:
                _band(axes, means.min(axis=1), means.max(axis=1), color)
            _line(axes, accuracy, label, color, marker)
            reach += [sent[travels].min(), sent.max()]
        elif len(accuracy):
            axes.axhline(accuracy.iloc[-1], color=color, linestyle="--", linewidth=1.6, label=_named(label))
    axes.set(xlabel="sent by a node over all its edges, if neighbors are linked directly", ylabel="test accuracy")
    axes.grid(alpha=0.3)
    if not reach:
        axes.set_xticks([])  # no node sends anything
        return
    axes.set_xscale("log")
    several_decades = max(reach) > 300 * min(reach)
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


def _styles(histories: Histories) -> dict[str, tuple[str, str]]:
    """Return each label's color and marker."""
    if not histories:
        raise InputError("there is no finished run to draw")
    for label, runs in histories.items():
        if not runs:
            raise InputError(f"there is no finished run of {label!r} to draw")
    return dict(zip(histories, zip(cycle(_COLORS), cycle(_MARKERS)), strict=False))


def _line(axes: Axes, values: pd.Series, label: str, color: str, marker: str) -> None:
    markevery = max(1, len(values) // 10)
    axes.plot(values, color=color, marker=marker, markersize=5, markevery=markevery, linewidth=2.2, label=_named(label))


def _named(label: str) -> str:
    """Return a label that the legend shows: matplotlib omits labels that begin with an underscore."""
    return f" {label}" if label.startswith("_") else label


def _band(axes: Axes, low: pd.Series, high: pd.Series, color: str) -> None:
    axes.fill_between(low.index, low, high, color=color, alpha=0.15, linewidth=0)


def _legend(figure: FigureBase, axes: Axes, note: str) -> None:
    """Put the labels under the axes, where they cover no line."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(4, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=note, title_fontsize="small")


# -- graphs ------------------------------------------------------------------------------------------------------------


def graphs_by_accuracy(finals: Finals) -> Figure:
    """Return each label's graph with its vertices colored by final accuracy, on one scale for all.

    Parameters
    ----------
    finals : mapping
        Each label's graph with vertices 0, 1, ..., and the accuracy in [0, 1] of each vertex; None or NaN, drawn in
        gray, where it has none.

    Raises
    ------
    InputError
        If there is no label.
    """
    if not finals:
        raise InputError("there is no finished run to draw")
    rows, columns = _grid(len(finals))
    figure = Figure(figsize=(3 * columns + 1.2, 3 * rows + 0.2), layout="constrained")
    _draw_graphs(figure, finals, {})
    return figure


def draw_graph(graph: nx.Graph, title: str) -> Figure:
    """Return a drawing of a graph of up to some thousands of vertices, with names up to 40 and arrows if directed."""
    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.add_subplot()
    _draw_vertices(axes, graph, ["#56B4E9"] * graph.number_of_nodes(), inches=6.5)
    if graph.number_of_nodes() <= _MAX_VERTEX_NAMES:
        positions = _positions(graph)
        for vertex, name in graph.nodes(data="name"):
            text = str(vertex) if name is None else str(name)
            x, y = positions[vertex]
            axes.text(x, y, text, ha="center", va="center", fontsize=9)
    axes.set_title(title)
    return figure


def _draw_graphs(figure: FigureBase, finals: Finals, title_colors: Mapping[str, str]) -> None:
    """Draw one panel per label, and one color bar."""
    known = [value for _, accuracies in finals.values() for value in map(_number, accuracies) if not math.isnan(value)]
    scale = ScalarMappable(_norm(known), _ACCURACY_COLORS)
    panels = figure.subplots(*_grid(len(finals)), squeeze=False).ravel()
    anything_unknown = False
    for axes, (label, (graph, accuracies)) in zip(panels, finals.items(), strict=False):
        values = [_number(accuracy) for accuracy in accuracies]
        colors = [_UNKNOWN_COLOR if math.isnan(value) else _color(scale, value) for value in values]
        anything_unknown |= _UNKNOWN_COLOR in colors
        _draw_vertices(axes, graph, colors, inches=2.7)
        axes.set_title(label, color=title_colors.get(label, "black"), fontweight="bold", fontsize=10)
    for axes in panels[len(finals) :]:
        axes.set_axis_off()
    words = "final test accuracy" + (" (gray: none)" if anything_unknown else "")
    figure.colorbar(scale, ax=list(panels), label=words, shrink=0.8)


def _draw_vertices(axes: Axes, graph: nx.Graph, colors: Sequence[ColorType], inches: float) -> None:
    """Draw a graph; `colors` are those of the vertices 0, 1, ..., `inches` is the side of the axes."""
    positions = _positions(graph)
    area = min((72 * inches) ** 2 * 0.06 / len(positions), 500.0)  # points^2, so that neighbors on a circle stay apart
    width = min(1.0, 30 / math.sqrt(graph.number_of_edges() + 1))
    if graph.is_directed() and graph.number_of_edges() <= _MAX_ARROWS:
        for source, target in graph.edges:
            arrow = FancyArrowPatch(
                positions[source],
                positions[target],
                arrowstyle="-|>",
                connectionstyle="arc3,rad=0.1",  # bent, so that both directions of a pair show
                mutation_scale=4 + math.sqrt(area) / 2,
                shrinkA=math.sqrt(area) / 2,
                shrinkB=math.sqrt(area) / 2,
                color="gray",
                linewidth=width,
            )
            axes.add_patch(arrow).set_in_layout(False)
    else:
        segments = [(positions[source], positions[target]) for source, target in graph.edges]
        axes.add_collection(LineCollection(segments, colors="gray", linewidths=width, zorder=1), autolim=False)
    x, y = zip(*(positions[vertex] for vertex in range(len(positions))), strict=True)
    edge_width = 0.8 if area > 20 else 0.0
    axes.scatter(x, y, s=area, c=colors, edgecolors="black", linewidths=edge_width, zorder=2)
    axes.margins(0.1)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _positions(graph: nx.Graph) -> dict[int, tuple[float, float]]:
    """Return a place in the plane for each vertex, the same for the same graph.

    Cycles and complete graphs are a circle in the order of vertices; other small graphs are drawn by path lengths
    (Kamada and Kawai 1989), large ones by eigenvectors, which is fast.
    """
    undirected = graph.to_undirected(as_view=True)
    degrees = {degree for _, degree in undirected.degree}
    num_nodes = graph.number_of_nodes()
    if degrees in ({2}, {num_nodes - 1}):
        places = nx.circular_layout(sorted(graph))
    elif num_nodes <= _MAX_KAMADA_KAWAI:
        places = nx.kamada_kawai_layout(undirected, weight=None)
    else:
        places = _spectral(undirected)
    return {vertex: (float(x), float(y)) for vertex, (x, y) in places.items()}


def _spectral(graph: nx.Graph) -> dict[int, np.ndarray]:
    """Return the second and third eigenvector of the random walk: neighbors come close to one another (Koren 2005)."""
    adjacency = nx.to_scipy_sparse_array(graph, nodelist=sorted(graph), weight=None, dtype=float)
    scale = 1 / np.sqrt(adjacency.sum(axis=0))
    start = np.random.default_rng(0).standard_normal(len(scale))
    _, vectors = eigsh(diags_array(scale) @ adjacency @ diags_array(scale), k=3, which="LA", v0=start, tol=1e-4)
    return dict(enumerate(vectors[:, 1::-1] * scale[:, None]))


def _grid(panels: int) -> tuple[int, int]:
    """Return rows and columns for a number of panels."""
    rows = math.ceil(panels / _MAX_COLUMNS)
    return rows, math.ceil(panels / rows)


def _number(accuracy: float | None) -> float:
    return math.nan if accuracy is None else accuracy


def _color(scale: ScalarMappable, value: float) -> tuple[float, float, float, float]:
    red, green, blue, opacity = scale.to_rgba(np.array([value]))[0]
    return red, green, blue, opacity


def _norm(values: Iterable[float]) -> Normalize:
    """Return a color scale over finite values, not empty even if they are all equal or there are none."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    return Normalize(low - 0.01, high + 0.01) if low == high else Normalize(low, high)


# -- comparison --------------------------------------------------------------------------------------------------------


def comparison(histories: Histories, finals: Finals) -> Figure:
    """Return the picture of a comparison: accuracy by round and by bytes, and the graphs by final accuracy.

    Parameters
    ----------
    histories, finals
        As in `accuracy_by_bytes` and `graphs_by_accuracy`; without `finals` there are no graphs. A label has the same
        color in all panels.

    Raises
    ------
    InputError
        If there is no label, or a label without a run.
    """
    styles = _styles(histories)
    rows, _ = _grid(max(len(finals), 1))
    heights = [4.8, 3.0 * rows] if finals else [4.8]
    figure = Figure(figsize=(13, sum(heights)), layout="constrained")
    top, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel()
    by_round, by_bytes = top.subplots(1, 2, sharey=True)
    note = _draw_by_round(by_round, histories)
    _draw_by_bytes(by_bytes, histories)
    by_bytes.set_ylabel("")
    _legend(top, by_round, f"{note}, dashed: sends nothing")
    for graphs in below:
        _draw_graphs(graphs, finals, {label: color for label, (color, _) in styles.items()})
    return figure


# -- sweep -------------------------------------------------------------------------------------------------------------


def heat_maps(table: pd.DataFrame, keys: Sequence[str]) -> Figure:
    """Return mean accuracy over seeds by the two keys with the most values, one panel per combination of the others.

    Parameters
    ----------
    table : DataFrame
        One row per run: one column per key, `seed`, and `accuracy`, NaN if the run failed. Values are drawn in the
        order of their first row. Cells without a finished run are hatched.
    keys : sequence of str
        The columns of the swept keys.

    Raises
    ------
    InputError
        If there is no key or no row.
    """
    if not keys or table.empty:
        raise InputError("a heat map needs at least one key and one run")
    by_length = sorted(keys, key=lambda key: -table[key].nunique())
    if len(by_length) == 1:
        table, by_length = table.assign(**{"": ""}), [*by_length, ""]  # a single row, without a name
    x, y, *others = by_length
    means = {choice: runs["accuracy"].mean() for choice, runs in table.groupby([y, x, *others], sort=False)}
    y_values, x_values = list(table[y].unique()), list(table[x].unique())
    panels = list(dict.fromkeys(choice[2:] for choice in means))
    shown = panels[:_MAX_HEAT_MAPS]
    scale = ScalarMappable(_norm(mean for mean in means.values() if not math.isnan(mean)), _ACCURACY_COLORS)

    rows, columns = _grid(len(shown))
    # Cells shrink where there are many, so that the picture can still be opened.
    height, width = min(0.5, 40 / (rows * len(y_values))), min(0.7, 40 / (columns * len(x_values)))
    size = (columns * (len(x_values) * width + 1.0) + 1.2, rows * (len(y_values) * height + 1.0) + 0.4)
    figure = Figure(figsize=(max(size[0], 4.0), max(size[1], 2.4)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, shown, strict=False):
        for row, y_value in enumerate(y_values):
            for column, x_value in enumerate(x_values):
                mean = means.get((y_value, x_value, *panel))
                if mean is not None:
                    _draw_cell(axes, row, column, mean, scale, font_size=min(8.0, 40 * height, 24 * width))
        axes.set_title("\n".join(f"{key} = {value}" for key, value in zip(others, panel, strict=True)), fontsize=9)
        axes.set(xlim=(-0.5, len(x_values) - 0.5), ylim=(len(y_values) - 0.5, -0.5), xlabel=x, ylabel=y)
        long_names = max(len(str(value)) for value in x_values) > 6
        axes.set_xticks(range(len(x_values)), [str(value) for value in x_values], rotation=45 if long_names else 0)
        axes.set_yticks(range(len(y_values)), [str(value) for value in y_values])
        if not y:
            axes.set_yticks([])
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    more = f" (the first {len(shown)} of {len(panels)} panels)" if len(panels) > len(shown) else ""
    figure.suptitle(f"mean over nodes and seeds{more}", fontsize=10)
    figure.colorbar(scale, ax=list(grid), label="final test accuracy")
    return figure


def _draw_cell(axes: Axes, row: int, column: int, mean: float, scale: ScalarMappable, font_size: float) -> None:
    """Fill one cell with its color and value; hatch it if the mean is NaN."""
    corner = (column - 0.5, row - 0.5)
    if math.isnan(mean):
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor="gray", hatch="///", linewidth=0))
        return
    color = _color(scale, mean)
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=0.5))
    dark = np.dot(color[:3], (0.299, 0.587, 0.114)) < 0.5
    ink = "white" if dark else "black"
    axes.text(column, row, f"{mean:.3f}", ha="center", va="center", fontsize=font_size, color=ink)
