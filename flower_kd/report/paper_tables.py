"""The figures of a comparison or a sweep as a table for a paper (LaTeX, booktabs) and in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from flower_kd.report.formats import MISSING, as_text, megabytes, short
from flower_kd.report.interval import CONFIDENCE_INTERVAL, RANGE

_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$",
    "[": "{[}", "*": "{*}",  # at the beginning of a row, they would be options of the command that ends the last one
}  # fmt: skip
_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]|~$])")

# What the accuracy of a row says beside its mean, by the kind of its interval.
_KINDS = {
    CONFIDENCE_INTERVAL: f"± half of the {CONFIDENCE_INTERVAL} interval over seeds (Student's t)",
    RANGE: "in parentheses lowest to highest seed",
}


@dataclass(frozen=True)
class PaperTable:
    """A table of texts.

    Parameters
    ----------
    caption : str
        What its figures are.
    header : sequence of str
        One title per column, with the unit.
    rows : sequence of sequence of str
        One text per column.
    names : int
        How many of the first columns are names, set flush left; the others are numbers, set flush right.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1

    def to_tex(self) -> str:
        """Return a LaTeX table, with all text escaped."""
        alignment = "l" * self.names + "r" * (len(self.header) - self.names)
        return _template("tex").render(table=self, alignment=alignment)

    def to_markdown(self) -> str:
        """Return a table in GitHub's Markdown, with all text escaped, and its caption below."""
        rules = [":--" if number < self.names else "--:" for number in range(len(self.header))]
        return _template("md").render(table=self, rules=rules)

    def files(self, stem: str) -> dict[str, bytes]:
        """Return both files by name."""
        return {f"{stem}.tex": self.to_tex().encode(), f"{stem}.md": self.to_markdown().encode()}


def of_comparison(rows: pd.DataFrame, notes: Sequence[str]) -> PaperTable:
    """Return the table of a comparison.

    Parameters
    ----------
    rows : DataFrame
        Those of comparison.csv (`flower_kd.study.compare.table`).
    notes : sequence of str
        Sentences for the end of the caption.
    """
    columns: list[tuple[str, Callable[[pd.Series], str]]] = [
        ("run", lambda row: str(row["run"])),
        *_accuracy(rows, "seeds", "accuracy-low", "accuracy-high", "interval"),
        ("spread", lambda row: _share(row["spread"])),
        ("kB per message", lambda row: short(row["kb-per-message"])),
        ("messages per edge", lambda row: short(row["messages-per-edge"])),
        ("MB per edge", lambda row: short(row["mb-per-edge"])),
        ("MB per node", lambda row: short(row["mb-per-node"])),
    ]
    words = [
        *_caption(rows["interval"]),
        "Spread: standard deviation over nodes",
        "Sent by a node over one edge in one direction, and over all its edges, if neighbors are linked directly",
        *notes,
    ]
    return _table(words, columns, rows, failed=rows["seeds"] == 0, names=1)


def of_sweep(rows: pd.DataFrame, keys: Sequence[str]) -> PaperTable:
    """Return the table of a sweep's settings; `rows` are those of `over_seeds`."""
    columns: list[tuple[str, Callable[[pd.Series], str]]] = [
        *((key, lambda row, key=key: as_text(row[key])) for key in keys),
        *_accuracy(rows, "finished", "low", "high", "kind"),
        ("spread", lambda row: _share(row["accuracy-std"])),
        ("MB per edge", lambda row: megabytes(row["bytes-per-edge"])),
        ("MB per node", lambda row: megabytes(row["bytes-per-node"])),
    ]
    words = [
        *_caption(rows["kind"]),
        "Spread: standard deviation over nodes",
        "Sent by a node over one edge in one direction, and over all its edges, if neighbors are linked directly",
    ]
    return _table(words, columns, rows, failed=rows["finished"] == 0, names=len(keys))


def _accuracy(
    rows: pd.DataFrame, seeds: str, low: str, high: str, kind: str
) -> list[tuple[str, Callable[[pd.Series], str]]]:
    """Return the columns of mean accuracy, and of the number of seeds where the rows differ in it."""

    def text(row: pd.Series) -> str:
        mean = _share(row["accuracy"])
        if row[kind] == CONFIDENCE_INTERVAL:
            return f"{mean} ± {_share(row[high] - row['accuracy'])}"
        return f"{mean} ({_share(row[low])} to {_share(row[high])})" if row[kind] == RANGE else mean

    counts = {int(count) for count in rows[seeds]} - {0}
    if len(counts) > 1:
        return [("seeds", lambda row: str(row[seeds])), ("accuracy", text)]
    count = counts.pop() if counts else 0
    return [(f"accuracy ({count} seed{'s' if count > 1 else ''})" if count else "accuracy", text)]


def _caption(kinds: pd.Series) -> list[str]:
    found = [words for kind, words in _KINDS.items() if (kinds == kind).any()]
    return [
        "; ".join(["Test accuracy, mean over nodes and seeds" if found else "Test accuracy, mean over nodes", *found])
    ]


def _table(
    words: Sequence[str],
    columns: Sequence[tuple[str, Callable[[pd.Series], str]]],
    rows: pd.DataFrame,
    failed: pd.Series,
    names: int,
) -> PaperTable:
    texts = []
    for (_, row), has_failed in zip(rows.iterrows(), failed, strict=True):
        cells = [text(row) for _, text in (columns[:names] if has_failed else columns)]
        if has_failed:
            cells += ["failed", *[MISSING] * (len(columns) - names - 1)]
        texts.append(cells)
    return PaperTable(". ".join(words) + ".", [title for title, _ in columns], texts, names)


def _share(value: float) -> str:
    return MISSING if np.isnan(value) else f"{value:.3f}"


def _escaped_tex(value: Any) -> str:
    text = "".join(_TEX.get(sign, sign) for sign in " ".join(str(value).split()))
    return text.replace("--", "-{}-").replace("--", "-{}-")  # two would be set as one dash


def _escaped_markdown(value: Any) -> str:
    line = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_SIGNS.sub(r"\\\1", line)


@cache
def _template(kind: str) -> Any:
    """Return a template; everything that it inserts is escaped."""
    environment = Environment(
        loader=PackageLoader("flower_kd.report"),
        finalize={"tex": _escaped_tex, "md": _escaped_markdown}[kind],
        autoescape=False,  # this is not HTML
        undefined=StrictUndefined,
        # LaTeX is full of braces.
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"table.{kind}.j2")
