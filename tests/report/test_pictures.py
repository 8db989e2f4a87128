import networkx as nx
import numpy as np
import pandas as pd
import pytest

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.report import pictures

pytestmark = pytest.mark.filterwarnings("error")

LABELS = [f"strategy {number}" for number in range(8)]


def history(nodes: int = 4, shift: float = 0.0, sends: bool = True, rounds: int = 4) -> pd.DataFrame:
    """Return a history in which only even rounds were evaluated."""
    rows = [
        {
            "round": r,
            "vertex": v,
            "bytes-all-edges": 1000.0 * r * sends,
            "test-accuracy": min(0.1 * r + 0.01 * v + shift, 1.0) if r % 2 == 0 else np.nan,
        }
        for r in range(1, rounds + 1)
        for v in range(nodes)
    ]
    return pd.DataFrame(rows)


def lines(axes) -> dict[str, np.ndarray]:
    """Return the points of each line with a label."""
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


def test_means_by_round_are_over_nodes_and_then_over_seeds() -> None:
    figure = pictures.accuracy_by_round({"a": [history(), history(shift=0.2)], "b": [history()]}, "title")
    drawn = lines(figure.axes[0])
    assert drawn["a"] == pytest.approx(np.array([[2, 0.315], [4, 0.515]]))
    assert drawn["b"] == pytest.approx(np.array([[2, 0.215], [4, 0.415]]))
    faint = [line for line in figure.axes[0].lines if line.get_label().startswith("_")]
    assert len(faint) == 4  # the nodes of the label with one seed
    assert len(figure.axes[0].collections) == 1  # the band of the label with two
    assert figure.axes[0].get_title() == "title"


def test_many_nodes_are_a_band() -> None:
    figure = pictures.accuracy_by_round({"a": [history(nodes=100)]})
    assert len(figure.axes[0].lines) == 1
    assert len(figure.axes[0].collections) == 1


def test_bytes_have_a_logarithmic_axis_and_runs_without_exchange_are_dashed_lines() -> None:
    figure = pictures.accuracy_by_bytes({"kd": [history()], "silo": [history(sends=False)]})
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    drawn = lines(axes)
    assert drawn["kd"] == pytest.approx(np.array([[2000, 0.215], [4000, 0.415]]))
    assert drawn["silo"][:, 1] == pytest.approx([0.415, 0.415])
    assert axes.lines[-1].get_linestyle() == "--"
    figure.canvas.draw()
    assert any("kB" in tick.get_text() for tick in axes.get_xticklabels())


@pytest.mark.parametrize("labels", [1, 2, 5, 8])
def test_a_comparison_of_any_number_of_labels(labels: int) -> None:
    graph = topology.build("ring", 4)
    histories = {label: [history(shift=0.01 * n), history()] for n, label in enumerate(LABELS[:labels])}
    finals = {label: (graph, [0.1, 0.2, None, 0.4]) for label in histories}
    figure = pictures.comparison(histories, finals)
    by_round, by_bytes = figure.subfigs[0].axes
    assert set(lines(by_round)) == set(lines(by_bytes)) == set(histories)
    colors = {line.get_label(): line.get_color() for line in by_round.lines if line.get_label() in histories}
    assert len(set(colors.values())) == labels
    assert {line.get_color() for line in by_bytes.lines} == set(colors.values())
    assert pictures.png(figure).startswith(b"\x89PNG")


def test_no_node_sends_anything() -> None:
    assert pictures.png(pictures.accuracy_by_bytes({"silo": [history(sends=False)]}))


def test_vertices_have_the_color_of_their_accuracy() -> None:
    graph = topology.build("ring", 4)
    figure = pictures.graphs_by_accuracy({"a": (graph, [0.2, 0.2, 0.8, None]), "b": (graph, [0.8] * 4)})
    first, second = (axes.collections[-1].get_facecolors() for axes in figure.axes[:2])
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])
    assert np.array_equal(first[2], second[0])  # one scale for all
    assert np.ptp(first[3][:3]) == 0  # gray
    assert "gray: none" in figure.axes[-1].get_ylabel()


@pytest.mark.parametrize("accuracies", [[0.5] * 6, [None] * 6])
def test_accuracies_that_are_all_equal_or_missing(accuracies: list) -> None:
    graph = topology.build("random-directed", 6, seed=1)
    assert pictures.png(pictures.graphs_by_accuracy({"a": (graph, accuracies)}))


@pytest.mark.parametrize(
    ("name", "nodes"), [("ring", 8), ("torus", 16), ("random-directed", 12), ("star", 60), ("regular", 300)]
)
def test_every_vertex_and_edge_is_drawn(name: str, nodes: int) -> None:
    graph = topology.build(name, nodes, seed=2)
    figure = pictures.draw_graph(graph, name)
    axes = figure.axes[0]
    assert len(axes.collections[-1].get_offsets()) == nodes
    edges = len(axes.patches) if graph.is_directed() else len(axes.collections[0].get_segments())
    assert edges == graph.number_of_edges()
    assert len(axes.texts) == (nodes if nodes <= 40 else 0)
    assert pictures.png(figure) == pictures.png(pictures.draw_graph(graph, name))


def test_vertices_with_names_are_named() -> None:
    graph = nx.relabel_nodes(nx.path_graph(["attic", "cellar", "hall"]), {"attic": 0, "cellar": 1, "hall": 2})
    nx.set_node_attributes(graph, {0: "attic", 1: "cellar", 2: "hall"}, "name")
    assert {text.get_text() for text in pictures.draw_graph(graph, "house").axes[0].texts} == {
        "attic",
        "cellar",
        "hall",
    }


def swept() -> pd.DataFrame:
    rows = [
        {"dissimilarity": d, "temperature": t, "clamp": c, "seed": s, "accuracy": a + 0.1 * s}
        for a, (d, t, c) in enumerate((d, t, c) for d in ("kl", "js", "td") for t in (10.0, 1.0) for c in (True, False))
        for s in (0, 1)
    ]
    table = pd.DataFrame(rows)
    table["accuracy"] /= 20
    table.loc[(table["dissimilarity"] == "js") & (table["temperature"] == 1.0), "accuracy"] = np.nan
    return table


def test_heat_maps_hold_means_over_seeds_in_the_order_of_the_table() -> None:
    figure = pictures.heat_maps(swept(), ["temperature", "dissimilarity", "clamp"])
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["kl", "js", "td"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["10.0", "1.0"]
    assert [panel.get_title() for panel in figure.axes[:2]] == ["clamp = True", "clamp = False"]
    assert len(axes.texts) == 5
    assert axes.texts[0].get_text() == f"{0.05 / 20:.3f}"
    assert sum(bool(patch.get_hatch()) for patch in axes.patches) == 1  # the cell whose runs failed
    assert pictures.png(figure)


def test_one_key_is_one_row() -> None:
    figure = pictures.heat_maps(swept(), ["dissimilarity"])
    assert len(figure.axes[0].texts) == 3
    assert list(figure.axes[0].get_yticks()) == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda: pictures.accuracy_by_round({}),
        lambda: pictures.accuracy_by_bytes({"a": []}),
        lambda: pictures.comparison({}, {}),
        lambda: pictures.graphs_by_accuracy({}),
        lambda: pictures.heat_maps(swept(), []),
        lambda: pictures.heat_maps(swept().head(0), ["clamp"]),
    ],
)
def test_nothing_to_draw_is_one_sentence(draw) -> None:
    with pytest.raises(InputError, match=r"there is no finished run|needs at least one"):
        draw()


def test_names_are_not_parsed_as_formulas_and_none_is_omitted(recwarn: pytest.WarningsRecorder) -> None:
    labels = ["$x_$", "_private", "模型"]
    histories = {label: [history(), history()] for label in labels}
    graph = topology.build("ring", 4)
    figure = pictures.comparison(histories, {label: (graph, [0.1, 0.2, None, 0.4]) for label in labels})
    assert pictures.png(figure).startswith(b"\x89PNG")
    legends = [text.get_text().strip() for legend in figure.subfigs[0].legends for text in legend.get_texts()]
    assert set(labels) <= set(legends)
    assert pictures.png(pictures.draw_graph(graph, "$x_$")).startswith(b"\x89PNG")
    assert not recwarn.list
