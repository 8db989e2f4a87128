"""Where gradients of dissimilarities vanish or explode, as tables for the terminal and for a paper."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.table import Table
from rich.text import Text

from flower_kd.report.formats import MISSING, as_text, short
from flower_kd.report.paper_tables import PaperTable

_OTHERS = {
    "explodes": "explode, %",
    "largest": "largest",
    "inexact": "inexact in float32, %",
}


def for_paper(rows: pd.DataFrame) -> PaperTable:
    """Return the table of a paper; `rows` are those of `flower_kd.study.gradients.by_temperature`."""
    caption = (
        "Gradients of dissimilarities at the student's logits, times T^2: share of pairs of student and teacher whose "
        "gradient vanishes, by temperature; share that explodes, and the largest, at any temperature."
    )
    return PaperTable(caption, list(_header(rows, "vanish at T = {}, %")), list(_cells(rows)), names=2)


def by_temperature(rows: pd.DataFrame, title: str) -> Table:
    """Return the same table for the terminal."""
    shown = Table(title=Text(title, style="table.title"))
    for number, name in enumerate(_header(rows, "T = {}")):
        shown.add_column(name, justify="left" if number == 1 else "right", no_wrap=number == 1)
    before = None
    for cells in _cells(rows):
        if before not in (None, cells[0]):
            shown.add_section()
        before = cells[0]
        shown.add_row(*map(Text, cells))
    return shown


def by_confidence(rows: pd.DataFrame, title: str) -> Table:
    """Return by the student's confidence how often gradients vanish, those of `flower_kd.study.gradients`."""
    shown = Table("dissimilarity", "student's class", title=Text(title, style="table.title"))
    for confidence in rows.columns:
        shown.add_column(as_text(confidence) if confidence else "nearly uniform", justify="right")
    for (name, on), shares in rows.iterrows():
        shown.add_row(*map(Text, (str(name), str(on), *(_percent(share) for share in shares))))
    return shown


def _header(rows: pd.DataFrame, of_temperature: str) -> Iterator[str]:
    yield from ("classes", "dissimilarity")
    for column in rows.columns:
        yield _OTHERS[column] if column in _OTHERS else of_temperature.format(as_text(column))


def _cells(rows: pd.DataFrame) -> Iterator[list[str]]:
    for (classes, name), row in rows.iterrows():
        values = (short(row[column]) if column == "largest" else _percent(row[column]) for column in rows.columns)
        yield [str(classes), str(name), *values]


def _percent(share: float) -> str:
    return MISSING if pd.isna(share) else f"{100 * share:.0f}"
