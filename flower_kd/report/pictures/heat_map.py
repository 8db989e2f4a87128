"""Heat maps of a sweep: mean accuracy by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flower_kd.errors import InputError
from flower_kd.report.formats import as_text
from flower_kd.report.interval import ONE_SEED
from flower_kd.report.pictures.style import PAGE_WIDTH, color_scale, ink_on, panel_grid, styled

_MAX_PANELS = 24
_MAX_PANEL_COLUMNS = 4
_MAX_NUMBERS = 1000  # more of them nobody reads, and they take seconds to draw
_CELL, _SMALLEST_CELL = (0.46, 0.26), (0.30, 0.20)  # inches; the smallest holds a number of 6 points
_CELL_WITHOUT_NUMBER = 0.08
_LARGEST_SIDE = 40.0
_LETTER = 0.057  # inches
_BAR_WIDTH = 0.15
_LONG_NAME = 5


@styled
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
    panels = list(dict.fromkeys(choice[2:] for choice in means))
    shown = panels[:_MAX_PANELS]
    sizes = _Sizes.of(list(table[x].unique()), list(table[y].unique()), len(shown), bool(others))

    figure = Figure(figsize=sizes.figure, layout="compressed")
    grid = figure.subplots(sizes.rows, sizes.columns, squeeze=False, sharex=True, sharey=True)
    scale = color_scale(means.values())
    for number, (axes, panel) in enumerate(zip(grid.ravel(), shown, strict=False)):
        _draw_panel(axes, {choice[:2]: mean for choice, mean in means.items() if choice[2:] == panel}, sizes, scale)
        axes.set_title("\n".join(f"{key} = {as_text(value)}" for key, value in zip(others, panel, strict=True)))
        below = number + sizes.columns >= len(shown)  # nothing is drawn under this panel
        axes.tick_params(labelbottom=below, bottom=below)
        axes.set(xlabel=x if below else "", ylabel=y if number % sizes.columns == 0 else "")
    for axes in grid.ravel()[len(shown) :]:
        axes.set_axis_off()
    more = f"\n(the first {len(shown)} of {len(panels)} panels)" if len(panels) > len(shown) else ""
    seeds = int(table.groupby([y, x, *others], sort=False)["accuracy"].count().max())
    figure.suptitle(f"mean over nodes{f' and {seeds} seeds' if seeds > 1 else f', {ONE_SEED}'}{more}", fontsize=8)
    slimness = sizes.figure[1] / _BAR_WIDTH
    bar = figure.colorbar(scale, ax=list(grid.ravel()), label="final test accuracy", aspect=slimness)
    bar.outline.set_visible(False)
    return figure


@dataclass(frozen=True)
class _Sizes:
    """The values along both axes and the sizes that fit them, in inches."""

    x_values: Sequence[Any]
    y_values: Sequence[Any]
    rows: int
    columns: int
    cell: tuple[float, float]
    figure: tuple[float, float]
    numbers: bool
    rotated: bool

    @classmethod
    def of(cls, x_values: Sequence[Any], y_values: Sequence[Any], panels: int, titled: bool) -> _Sizes:
        """Return cells as large as a page allows but no larger than they need; where they are many, it grows."""
        longest_x, longest_y = (max(len(as_text(value)) for value in values) for values in (x_values, y_values))
        numbers = panels * len(x_values) * len(y_values) <= _MAX_NUMBERS
        left, bar = 0.35 + longest_y * _LETTER, 0.75
        widest = max(1, int((PAGE_WIDTH - left - bar) / (len(x_values) * _SMALLEST_CELL[0] + 0.15)))
        rows, columns = panel_grid(panels, min(_MAX_PANEL_COLUMNS, widest))
        if numbers:
            room = (PAGE_WIDTH - left - bar) / columns - 0.15
            width = min(_CELL[0], max(_SMALLEST_CELL[0], room / len(x_values)))
            height = _SMALLEST_CELL[1] + (_CELL[1] - _SMALLEST_CELL[1]) * (width - _SMALLEST_CELL[0]) / (
                _CELL[0] - _SMALLEST_CELL[0]
            )
        else:
            width = min(_CELL_WITHOUT_NUMBER, _LARGEST_SIDE / (columns * len(x_values)))
            height = min(_CELL_WITHOUT_NUMBER, _LARGEST_SIDE / (rows * len(y_values)))
        rotated = longest_x > max(_LONG_NAME, width / _LETTER)
        below = 0.4 + (longest_x * _LETTER * sqrt(0.5) if rotated else 0.0)
        above = 0.35 + (0.2 * rows if titled else 0.0)
        size = (
            max(left + bar + columns * (len(x_values) * width + 0.15), 2.4),
            max(below + above + rows * (len(y_values) * height + 0.15), 1.5),
        )
        return cls(x_values, y_values, rows, columns, (width, height), size, numbers, rotated)


def _draw_panel(axes: Axes, means: Mapping[Any, float], sizes: _Sizes, scale: ScalarMappable) -> None:
    """Draw the cells of one panel: mean accuracy by (y value, x value)."""
    x_values, y_values = sizes.x_values, sizes.y_values
    cells = np.array([[means.get((y, x), nan) for x in x_values] for y in y_values])
    shape = np.arange(len(x_values) + 1) - 0.5, np.arange(len(y_values) + 1) - 0.5
    colors = scale.to_rgba(np.ma.masked_invalid(cells))
    axes.pcolormesh(*shape, colors, edgecolors="white", linewidth=0.3)
    font_size = 6.0 + 1.0 * (sizes.cell[0] > 0.36)
    for row, column in np.ndindex(*cells.shape):
        mean = float(cells[row, column])
        if isnan(mean):
            if (y_values[row], x_values[column]) in means:
                corner = (column - 0.5, row - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor="gray", hatch="////", linewidth=0))
        elif sizes.numbers:
            ink = ink_on(colors[row, column])
            axes.text(column, row, f"{mean:.3f}", ha="center", va="center", fontsize=font_size, color=ink)
    axes.set(xlim=(-0.5, len(x_values) - 0.5), ylim=(len(y_values) - 0.5, -0.5))
    axes.set_xticks(range(len(x_values)), [as_text(value) for value in x_values])
    if sizes.rotated:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(y_values)), [as_text(value) for value in y_values])
    axes.set_aspect(sizes.cell[1] / sizes.cell[0])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if list(y_values) == [""]:
        axes.set_yticks([])
