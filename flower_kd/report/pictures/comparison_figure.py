"""The picture of a comparison: accuracy by round and by bytes, and the graphs."""

from __future__ import annotations

from matplotlib.figure import Figure

from flower_kd.report.pictures.accuracy_curves import Histories, check, draw_by_bytes, draw_by_round, legend
from flower_kd.report.pictures.graph_drawing import Finals, draw_graphs, height_of
from flower_kd.report.pictures.style import PAGE_WIDTH, styled


@styled
def comparison(histories: Histories, finals: Finals) -> Figure:
    """Return the picture of a comparison: accuracy by round and by bytes, and the graphs by final accuracy.

    Parameters
    ----------
    histories, finals
        As in `accuracy_by_bytes` and `graphs_by_accuracy`; without `finals` there are no graphs. A label has the same
        color, marker and dashes in both panels.

    Raises
    ------
    InputError
        If there is no label, or a label without a run.
    """
    check(histories)
    heights = [3.0 + 0.1 * len(histories), height_of(len(finals))] if finals else [3.0 + 0.1 * len(histories)]
    figure = Figure(figsize=(PAGE_WIDTH, sum(heights)), layout="constrained")
    top, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel()
    by_round, by_bytes = top.subplots(1, 2, sharey=True)
    notes = [*draw_by_round(by_round, histories), *draw_by_bytes(by_bytes, histories)]
    by_bytes.set_ylabel("")
    legend(top, by_round, dict.fromkeys(notes), PAGE_WIDTH)
    for graphs in below:
        draw_graphs(graphs, finals)
    return figure
