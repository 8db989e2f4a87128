import pytest
from histories import history

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.report import pictures

pytestmark = pytest.mark.filterwarnings("error")

LABELS = [f"strategy {number}" for number in range(8)]


@pytest.mark.parametrize("labels", [1, 8])
def test_a_comparison_of_any_number_of_labels(labels: int) -> None:
    graph = topology.build("ring", 4)
    histories = {label: [history(shift=0.01 * n), history()] for n, label in enumerate(LABELS[:labels])}
    finals = {label: pictures.Final(graph, [0.1, 0.2, None, 0.4]) for label in histories}
    figure = pictures.comparison(histories, finals)
    assert figure.get_size_inches()[0] == 7.0
    by_round, by_bytes = figure.subfigs[0].axes
    styles = [
        {
            line.get_label(): (line.get_color(), line.get_marker(), line.get_linestyle())
            for line in axes.lines
            if line.get_label() in histories
        }
        for axes in (by_round, by_bytes)
    ]
    assert styles[0] == styles[1]
    assert len(set(styles[0].values())) == len(styles[0]) == labels
    assert [axes.get_title() for axes in figure.subfigs[1].axes[:labels]] == LABELS[:labels]
    assert pictures.files(figure, "comparison")["comparison.png"].startswith(b"\x89PNG")


def test_names_are_not_parsed_as_formulas_and_none_is_omitted(recwarn: pytest.WarningsRecorder) -> None:
    labels = ["$x_$", "_private", "模型"]
    histories = {label: [history(), history()] for label in labels}
    graph = topology.build("ring", 4)
    figure = pictures.comparison(histories, {label: pictures.Final(graph, [0.1, 0.2, None, 0.4]) for label in labels})
    files = pictures.files(figure, "comparison")
    legends = [text.get_text().strip() for legend in figure.subfigs[0].legends for text in legend.get_texts()]
    assert set(labels) <= set(legends)
    assert "$x_$" in files["comparison.svg"].decode()
    assert pictures.files(pictures.draw_graph(graph, "$x_$"), "graph")
    assert not recwarn.list


def test_nothing_to_draw_is_one_sentence() -> None:
    with pytest.raises(InputError, match="there is no finished run"):
        pictures.comparison({}, {})
