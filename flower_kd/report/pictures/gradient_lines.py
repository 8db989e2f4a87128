"""Norms of gradients by the student's confidence, in panels by temperature and number of classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flower_kd.errors import InputError
from flower_kd.report.formats import as_text
from flower_kd.report.pictures.accuracy_curves import legend
from flower_kd.report.pictures.style import PAGE_WIDTH, line_styles, styled

_TEACHER = 0.9
_LOWEST = 1e-8


@styled
def gradients(rows: pd.DataFrame, vanishes: float, explodes: float) -> Figure:
    """Return T^2 times the norm of the gradient by the confidence of a student that is wrong, a line per dissimilarity.

    Parameters
    ----------
    rows : DataFrame
        Those of `flower_kd.study.gradients.measure`. The pairs that are drawn disagree; the teacher has 0.9.
    vanishes, explodes : float
        Share of the reference below which a gradient vanishes, and size above which it explodes: both are shaded.

    Raises
    ------
    InputError
        If no such pair is in the table.
    """
    drawn = rows[(rows["pair"] == "disagree") & (rows["teacher"] == _TEACHER)]
    if drawn.empty:
        raise InputError(f"no pair of the table disagrees with a teacher of confidence {_TEACHER}")
    heats, sizes = drawn["temperature"].unique(), drawn["classes"].unique()
    figure = Figure(figsize=(PAGE_WIDTH, 1.35 * len(heats) + 1.3), layout="constrained")
    grid = figure.subplots(len(heats), len(sizes), squeeze=False, sharex=True, sharey=True)
    styles = line_styles(drawn["dissimilarity"].unique())
    for (row, column), axes in np.ndenumerate(grid):
        panel = drawn[(drawn["temperature"] == heats[row]) & (drawn["classes"] == sizes[column])]
        _draw(axes, panel, styles, vanishes, explodes)
        if row == 0:
            axes.set_title(f"{sizes[column]:,} classes")
        if column == 0:
            axes.set_ylabel(f"T = {as_text(heats[row])}")
    grid[-1, len(sizes) // 2].set_xlabel("probability that the student gives its class")
    notes = [
        f"T² times the norm of the gradient; the teacher gives another class {_TEACHER:g}",
        f"shaded: below {vanishes:g} of the gradient on the teacher's prediction, and above {explodes:.3g}",
    ]
    legend(figure, grid[0, 0], notes, PAGE_WIDTH)
    return figure


def _draw(
    axes: Axes, panel: pd.DataFrame, styles: dict[str, dict[str, object]], vanishes: float, explodes: float
) -> None:
    confidences = sorted(panel["student"].unique())
    places = range(len(confidences))
    bounds = panel.drop_duplicates("student").set_index("student")["reference"].reindex(confidences)
    axes.fill_between(places, _LOWEST, vanishes * bounds, color="0.9", linewidth=0)
    axes.axhspan(explodes, 100 * explodes, color="0.9", linewidth=0)
    for name, values in panel.groupby("dissimilarity", sort=False):
        norms = values.set_index("student")["scaled"].reindex(confidences).clip(lower=_LOWEST)
        axes.plot(places, norms, label=name, **styles[str(name)])  # type: ignore[arg-type]
    axes.set(yscale="log", ylim=(_LOWEST, 100 * explodes))
    labels = ["uniform", *(f"{confidence:.6g}" for confidence in confidences[1:])]
    axes.set_xticks(places, labels, rotation=45, ha="right")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid()
