"""Pictures of runs, comparisons, sweeps and graphs: plain data in, a matplotlib Figure out, files of it."""

from flower_kd.report.pictures.accuracy_curves import accuracy_by_bytes, accuracy_by_round
from flower_kd.report.pictures.comparison_figure import comparison
from flower_kd.report.pictures.gradient_lines import gradients
from flower_kd.report.pictures.graph_drawing import Final, draw_graph, graphs_by_accuracy
from flower_kd.report.pictures.heat_map import heat_maps
from flower_kd.report.pictures.saving import files

__all__ = [
    "Final",
    "accuracy_by_bytes",
    "accuracy_by_round",
    "comparison",
    "draw_graph",
    "files",
    "gradients",
    "graphs_by_accuracy",
    "heat_maps",
]
