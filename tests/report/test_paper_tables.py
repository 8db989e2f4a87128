import re

import numpy as np
import pandas as pd
import pytest

from flower_kd.report import paper_tables
from flower_kd.report.over_seeds import over_seeds
from flower_kd.report.paper_tables import PaperTable

ODD = r"a_b & 50% $x^2$ {y} \z ~ #1 <b> |c| *d* [e](f) `g` ± 模型"


def compared(**columns: object) -> pd.DataFrame:
    rows = {
        "run": ["kd", "regular(degree=4)"],
        "seeds": [3, 3],
        "accuracy": [0.91234, 0.5],
        "accuracy-low": [0.9, 0.4],
        "accuracy-high": [0.92468, 0.6],
        "interval": ["95% confidence", "95% confidence"],
        "spread": [0.01, 0.02],
        "kb-per-message": [16.512, 0.0],
        "messages-per-edge": [20.0, 0.0],
        "mb-per-edge": [0.33024, 0.0],
        "mb-per-node": [1234.5, 0.0],
    }
    return pd.DataFrame(rows | columns)


def cells_of_tex(text: str) -> list[list[str]]:
    """Return the cells of a tabular, after checks that LaTeX would make: balanced braces, no bare special character."""
    bare = re.sub(r"\\[\\{}&%$#_]", "", "\n".join(line for line in text.splitlines() if not line.startswith("%")))
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[%#_^~|<>]", bare)
    assert set(re.findall(r"\$[^$]*\$", bare)) <= {r"$\pm$"}
    assert re.findall(r"\\(begin|end){(\w+)}", bare) == [
        ("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table"),
    ]  # fmt: skip
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)&", row.removesuffix(r"\\"))] for row in rows]
    [alignment] = re.findall(r"\\begin{tabular}{(\w+)}", text)
    assert {len(row) for row in cells} == {len(alignment)}
    return cells


def cells_of_markdown(text: str) -> list[list[str]]:
    lines = text.split("\n\n")[0].splitlines()
    assert re.fullmatch(r"\|( (:--|--:) \|)+", lines[1])
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (lines[0], *lines[2:])]
    assert {len(row) for row in cells} == {lines[1].count("|") - 1}
    return cells


def test_a_comparison_has_its_figures_in_both_formats() -> None:
    table = paper_tables.of_comparison(compared(), ["Runs have odd initial weights"])
    expected = [
        ["kd", "0.912 ± 0.012", "0.010", "16.5", "20", "0.33", "1,234"],
        ["regular(degree=4)", "0.500 ± 0.100", "0.020", "0", "0", "0", "0"],
    ]
    assert cells_of_markdown(table.to_markdown())[1:] == expected
    assert cells_of_tex(table.to_tex())[1:] == [[cell.replace("±", r"$\pm$") for cell in row] for row in expected]
    assert table.header[1] == "accuracy (3 seeds)"
    for text in (table.to_tex(), table.to_markdown()):
        assert re.search(r"half of the 95\\?% confidence interval over seeds", text)
        assert "Runs have odd initial weights." in text


def test_the_number_of_seeds_is_a_column_where_it_differs() -> None:
    table = paper_tables.of_comparison(
        compared(seeds=[2, 1], interval=["lowest to highest", "one seed"], accuracy=[0.91, 0.5]), []
    )
    assert table.header[:3] == ["run", "seeds", "accuracy"]
    assert [row[1:3] for row in table.rows] == [["2", "0.910 (0.900 to 0.925)"], ["1", "0.500"]]
    assert "lowest to highest seed" in table.caption
    assert "confidence" not in table.caption


def test_one_seed_is_no_mean_over_seeds() -> None:
    table = paper_tables.of_comparison(compared(seeds=[1, 1], interval=["one seed"] * 2), [])
    assert table.caption.startswith("Test accuracy, mean over nodes.")
    assert table.header[1] == "accuracy (1 seed)"


def test_failed_and_missing_figures_are_no_numbers() -> None:
    table = paper_tables.of_comparison(
        compared(seeds=[1, 0], accuracy=[np.nan, np.nan], interval=["no value"] * 2, run=["nan", "b"]), []
    )
    assert table.rows[0][:2] == ["nan", "-"]
    assert table.rows[1] == ["b", "failed", *["-"] * 5]
    assert "nan" not in "".join(table.rows[0][1:])


@pytest.mark.parametrize("caption", ["plain", ODD])
def test_text_of_users_is_escaped(caption: str) -> None:
    table = PaperTable(caption, ["run", "value"], [[ODD, "1"], ["two\nlines", "2"]])
    [_, odd, two] = cells_of_tex(table.to_tex())
    assert odd[0].startswith(r"a\_b \& 50\% \$x\textasciicircum{}2\$ \{y\} \textbackslash{}z \textasciitilde{} \#1")
    assert odd[0].endswith("模型")
    assert two == ["two lines", "2"]
    [_, odd, two] = cells_of_markdown(table.to_markdown())
    assert odd[0].startswith(r"a\_b &amp; 50% \$x^2\$ {y} \\z \~ #1 &lt;b&gt; \|c\| \*d\* \[e\](f) \`g\` ±")
    assert two == ["two lines", "2"]


@pytest.mark.parametrize(("name", "written"), [("[a]", "{[}a]"), ("*", "{*}"), ("a---b", "a-{}-{}-b")])
def test_no_name_is_an_option_of_a_command_of_latex(name: str, written: str) -> None:
    assert cells_of_tex(PaperTable("", ["run", "value"], [[name, "1"]]).to_tex())[1] == [written, "1"]


def test_a_sweep_has_a_row_per_setting() -> None:
    figures = ["accuracy", "accuracy-std", "bytes-per-edge", "bytes-per-node"]
    runs = pd.DataFrame(
        [
            {"topology": t, "clamp": c, "seed": s, "accuracy": a, "accuracy-std": 0.1, "bytes-per-edge": 2e6,
             "bytes-per-node": 4e6, "error": ""}
            for t, c, s, a in [("ring", True, 0, 0.5), ("ring", True, 1, 0.7), ("a_b", False, 0, 0.4)]
        ]
        + [{"topology": "a_b", "clamp": True, "seed": 0, "error": "it failed"}]
    )  # fmt: skip
    table = paper_tables.of_sweep(over_seeds(runs, ["topology", "clamp"], figures), ["topology", "clamp"])
    assert cells_of_markdown(table.to_markdown()) == [
        ["topology", "clamp", "seeds", "accuracy", "spread", "MB per edge", "MB per node"],
        ["ring", "true", "2", "0.600 (0.500 to 0.700)", "0.100", "2", "4"],
        [r"a\_b", "false", "1", "0.400", "0.100", "2", "4"],
        [r"a\_b", "true", "failed", "-", "-", "-", "-"],
    ]
    assert len(cells_of_tex(table.to_tex())) == 4
    assert r"\begin{tabular}{llrrrrr}" in table.to_tex()
