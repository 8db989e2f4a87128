"""Drawings of communication graphs, or of the server that takes their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import FancyArrowPatch
from matplotlib.typing import ColorType

from flower_kd.errors import InputError
from flower_kd.report.pictures.layouts import Layout, circle, layout
from flower_kd.report.pictures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    UNKNOWN_COLOR,
    color_of,
    color_scale,
    panel_grid,
    styled,
)

_MAX_ARROWS = 2000
_MAX_VERTEX_NAMES = 64
_MAX_PANEL_COLUMNS = 5
_VERTEX_COLOR = "#BFE0F5"
_EDGE_COLOR = "0.45"


@dataclass(frozen=True)
class Final:
    """Where a run's nodes sent, and how accurate they became.

    Parameters
    ----------
    graph : networkx graph
        Vertices 0, 1, ...
    accuracies : sequence of float or None
        Of each vertex, in [0, 1]; None or NaN, drawn in gray, where it has none.
    sends_to : {"neighbors", "server", "none"}
        Under a server the nodes are drawn around it; nodes that send nothing have no edges.
    """

    graph: nx.Graph
    accuracies: Sequence[float | None]
    sends_to: Literal["neighbors", "server", "none"] = "neighbors"


Finals = Mapping[str, Final]


@styled
def graphs_by_accuracy(finals: Finals) -> Figure:
    """Return each label's graph with its vertices colored by final accuracy, on one scale for all.

    Raises
    ------
    InputError
        If there is no label.
    """
    if not finals:
        raise InputError("there is no finished run to draw")
    figure = Figure(figsize=(PAGE_WIDTH, height_of(len(finals))), layout="constrained")
    draw_graphs(figure, finals)
    return figure


@styled
def draw_graph(graph: nx.Graph, title: str, *, server: bool = False) -> Figure:
    """Return a drawing of a graph, or of its vertices around a server.

    It has up to some thousands of vertices, with names up to 64, and arrows if it is directed.
    """
    num_nodes = graph.number_of_nodes()
    side = COLUMN_WIDTH if num_nodes <= 16 else 5.0 if num_nodes <= _MAX_VERTEX_NAMES else PAGE_WIDTH
    final = Final(graph, [None] * num_nodes, "server" if server else "neighbors")
    width, height = np.ptp(_layout(final).places, axis=0)
    figure = Figure(figsize=(side, side * min(max(height / max(width, 1e-9), 0.5), 1.2) + 0.2), layout="constrained")
    axes = figure.add_subplot()
    drawn = _draw_vertices(axes, final, [_VERTEX_COLOR] * num_nodes, inches=side - 0.3)
    if num_nodes <= _MAX_VERTEX_NAMES:
        for vertex, name in graph.nodes(data="name"):
            text = str(vertex) if name is None else str(name)
            x, y = drawn.places[vertex].tolist()
            axes.text(x, y, text, ha="center", va="center", fontsize=7 if num_nodes <= 32 else 6)
    axes.set_title(title)
    if drawn.wrapped:
        axes.text(0.5, 0.0, "dotted: goes on at the opposite side", ha="center", transform=axes.transAxes, fontsize=7)
    return figure


def height_of(panels: int) -> float:
    """Return the height in inches of a figure of graphs that is as wide as a page."""
    rows, columns = panel_grid(panels, _MAX_PANEL_COLUMNS)
    return rows * (min((PAGE_WIDTH - 0.7) / columns, 2.4) + 0.25)


def draw_graphs(figure: FigureBase, finals: Finals) -> None:
    """Draw one panel per label, and one color bar."""
    scale = color_scale(_number(value) for final in finals.values() for value in final.accuracies)
    rows, columns = panel_grid(len(finals), _MAX_PANEL_COLUMNS)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    anything_unknown = False
    for axes, (label, final) in zip(panels, finals.items(), strict=False):
        values = [_number(accuracy) for accuracy in final.accuracies]
        colors = [UNKNOWN_COLOR if math.isnan(value) else color_of(scale, value) for value in values]
        anything_unknown |= UNKNOWN_COLOR in colors
        _draw_vertices(axes, final, colors, inches=min((PAGE_WIDTH - 0.7) / columns, 2.4) - 0.2)
        axes.set_title(label, fontsize=8)
    for axes in panels[len(finals) :]:
        axes.set_axis_off()
    words = "final test accuracy" + ("\n(gray: none)" if anything_unknown else "")
    bar = figure.colorbar(scale, ax=list(panels), label=words, shrink=0.8, aspect=15)
    bar.outline.set_visible(False)


def _draw_vertices(axes: Axes, final: Final, colors: Sequence[ColorType], inches: float) -> Layout:
    """Draw a graph; `colors` are those of the vertices 0, 1, ..., `inches` is the side of the axes."""
    graph, num_nodes = final.graph, final.graph.number_of_nodes()
    found = _layout(final)
    area = min((72 * inches) ** 2 * 0.05 / num_nodes, 190.0)  # points^2, so that neighbors on a circle stay apart
    width = min(0.8, 25 / math.sqrt(graph.number_of_edges() + 1))
    if final.sends_to == "server":
        _draw_server(axes, found, area, width)
    elif final.sends_to == "neighbors" and graph.is_directed() and graph.number_of_edges() <= _MAX_ARROWS:
        _draw_arrows(axes, graph, found, area, width)
    elif final.sends_to == "neighbors":
        straight = [found.places[list(edge)] for edge in graph.edges if _ordered(edge) not in found.wrapped]
        _draw_lines(axes, straight, width, "-")
        _draw_lines(axes, [stub for stubs in found.wrapped.values() for stub in stubs], width, ":")
    edge_width = 0.6 if area > 20 else 0.0
    axes.scatter(
        found.places[:, 0],
        found.places[:, 1],
        s=area,
        c=list(colors),
        edgecolors="black",
        linewidths=edge_width,
        zorder=2,
    )
    axes.margins(0.12)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return found


def _layout(final: Final) -> Layout:
    return Layout(circle(final.graph.number_of_nodes())) if final.sends_to == "server" else layout(final.graph)


def _ordered(edge: tuple[int, int]) -> tuple[int, int]:
    return min(edge), max(edge)


def _draw_lines(axes: Axes, lines: Sequence[np.ndarray | tuple], width: float, style: str) -> None:
    if lines:
        axes.add_collection(LineCollection(lines, colors=_EDGE_COLOR, linewidths=width, linestyles=style, zorder=1))


def _draw_server(axes: Axes, found: Layout, area: float, width: float) -> None:
    _draw_lines(axes, [np.array([place, (0.0, 0.0)]) for place in found.places], width, "-")
    box = {"boxstyle": "square,pad=0.4", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
    axes.text(0, 0, "server", ha="center", va="center", fontsize=7, bbox=box, zorder=3)


def _draw_arrows(axes: Axes, graph: nx.Graph, found: Layout, area: float, width: float) -> None:
    for edge in graph.edges:
        arrow = FancyArrowPatch(
            *(tuple(place) for place in found.places[list(edge)]),
            arrowstyle="-|>",
            connectionstyle="arc3,rad=0.1",  # bent, so that both directions of a pair show
            mutation_scale=3 + math.sqrt(area) / 2.5,
            shrinkA=math.sqrt(area) / 2,
            shrinkB=math.sqrt(area) / 2,
            color=_EDGE_COLOR,
            linewidth=width,
        )
        axes.add_patch(arrow).set_in_layout(False)


def _number(accuracy: float | None) -> float:
    return math.nan if accuracy is None else accuracy
