import numpy as np
import pytest
from histories import history

from flower_kd.errors import InputError
from flower_kd.report import pictures
from flower_kd.report.interval import interval

pytestmark = pytest.mark.filterwarnings("error")


def lines(axes) -> dict[str, np.ndarray]:
    """Return the points of each line with a label."""
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


def legend(figure) -> str:
    [found] = figure.legends
    return " ".join(found.get_title().get_text().split())


def test_means_by_round_are_over_nodes_and_then_over_seeds() -> None:
    figure = pictures.accuracy_by_round({"a": [history(), history(shift=0.2)], "b": [history()]}, "title")
    drawn = lines(figure.axes[0])
    assert drawn["a (2 seeds)"] == pytest.approx(np.array([[2, 0.315], [4, 0.515]]))
    assert drawn["b (1 seed)"] == pytest.approx(np.array([[2, 0.215], [4, 0.415]]))
    faint = [line for line in figure.axes[0].lines if line.get_label().startswith("_")]
    assert len(faint) == 4  # the nodes of the label with one seed
    assert len(figure.axes[0].collections) == 1  # the band of the label with two
    assert figure.axes[0].get_title() == "title"


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([1, 1], "line: mean over nodes, one seed; faint: each node"),
        ([2, 2], "line: mean over nodes and 2 seeds; band: lowest to highest seed"),
        ([3], "line: mean over nodes and 3 seeds; band: 95% confidence"),
        ([1, 3], "line: mean over nodes and seeds; faint: each node; band: 95% confidence"),
    ],
)
def test_the_legend_says_what_is_drawn(seeds: list[int], words: str) -> None:
    histories = {f"label {count} {number}": [history()] * count for number, count in enumerate(seeds)}
    figure = pictures.accuracy_by_round(histories)
    assert legend(figure) == words
    assert any("seed" in label for label in lines(figure.axes[0])) == (len(set(seeds)) > 1)


def test_a_band_is_the_interval_over_seeds() -> None:
    runs = [history(shift=shift) for shift in (0.0, 0.1, 0.3)]
    [band] = pictures.accuracy_by_round({"a": runs}).axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    expected = interval([0.415, 0.515, 0.715])
    assert heights.max() == pytest.approx(expected.high)
    assert expected.high == pytest.approx(0.548333 + 4.302653 * np.std([0.1, 0.2, 0.4], ddof=1) / 3**0.5)


def test_many_nodes_are_a_band() -> None:
    figure = pictures.accuracy_by_round({"a": [history(nodes=100)]})
    assert len(figure.axes[0].lines) == 1
    assert len(figure.axes[0].collections) == 1
    assert "band: 10th to 90th percentile of the nodes" in legend(figure)


def test_bytes_have_a_logarithmic_axis_and_runs_without_exchange_are_level_lines() -> None:
    figure = pictures.accuracy_by_bytes({"kd": [history()], "silo": [history(sends=False)]})
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert "log scale" in axes.get_xlabel()
    drawn = lines(axes)
    assert drawn["kd"] == pytest.approx(np.array([[2000, 0.215], [4000, 0.415]]))
    assert drawn["silo"][:, 1] == pytest.approx([0.415, 0.415])
    assert "level line: sends nothing" in legend(figure)
    figure.canvas.draw()
    assert any("kB" in tick.get_text() for tick in axes.get_xticklabels())


def test_lines_differ_without_their_colors() -> None:
    labels = [f"label {number}" for number in range(40)]
    axes = pictures.accuracy_by_round({label: [history(), history()] for label in labels}).axes[0]
    looks = {(line.get_marker(), line._unscaled_dash_pattern) for line in axes.lines if line.get_label() in labels}
    assert len(looks) == 40
    markers = {tuple(line.get_markevery()) for line in axes.lines if line.get_label() in labels}
    assert all(start < step for start, step in markers)


def test_no_node_sends_anything() -> None:
    assert pictures.files(pictures.accuracy_by_bytes({"silo": [history(sends=False)]}), "bytes")


def test_long_names_stay_within_the_picture() -> None:
    labels = [f"neighbor-kd on regular(degree={number}) with uint8" for number in range(4)]
    figure = pictures.accuracy_by_round({label: [history()] for label in labels}, ", ".join(labels))
    pictures.files(figure, "accuracy")
    for artist in (figure.legends[0], figure.axes[0].title):
        extent = artist.get_window_extent()
        assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width


@pytest.mark.parametrize("draw", [pictures.accuracy_by_round, pictures.accuracy_by_bytes])
@pytest.mark.parametrize("histories", [{}, {"a": []}])
def test_nothing_to_draw_is_one_sentence(draw, histories) -> None:
    with pytest.raises(InputError, match="there is no finished run"):
        draw(histories)
