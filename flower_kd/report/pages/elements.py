"""Building blocks of a page: headline figures, pictures, tables that can be sorted by their headers."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from flower_kd.report.formats import MISSING, percent
from flower_kd.report.pages.reading import reading

LONG_TEXT = 40
Order = Literal["ascending", "descending"] | None

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_WIDTH = slice(16, 20)
_DOTS_PER_PIXEL = 2  # letters of 8 points at 300 dots per inch are as large as the page's own then


@dataclass(frozen=True)
class Figure:
    """A headline figure."""

    name: str
    value: str
    remark: str


@dataclass(frozen=True)
class Picture:
    """A PNG picture, embedded in the page, `width` pixels wide."""

    source: str
    width: int
    alt: str

    @classmethod
    def read(cls, path: Path, alt: str) -> Picture | None:
        """Return the picture in a file, None if it does not exist; raises InputError if it is not a PNG."""
        if not path.exists():
            return None
        with reading(path):
            content = path.read_bytes()
            if not content.startswith(_PNG_SIGNATURE):
                raise ValueError("it is not a PNG picture")
        width = int.from_bytes(content[_PNG_WIDTH], "big") // _DOTS_PER_PIXEL
        return cls(f"data:image/png;base64,{base64.b64encode(content).decode()}", width, alt)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    title : str
        Its header, with the unit.
    values : sequence
        One value per row: numbers, strings, or (low, high) pairs of numbers; None or NaN if missing.
    show : callable
        Returns the text of a value.
    best : "highest", "lowest" or None
        Which value is set in bold.
    bar : bool
        Whether a bar behind each value shows its position between the column's lowest and highest.
    order : "ascending", "descending" or None
        How the rows are sorted by this column, if they are.
    hint : str
        What the title stands for, shown when pointed at.
    """

    title: str
    values: Sequence[Any]
    show: Callable[[Any], str] = str
    best: Literal["highest", "lowest"] | None = None
    bar: bool = False
    order: Order = None
    hint: str = ""


@dataclass(frozen=True)
class Header:
    """A column's header as the template writes it."""

    title: str
    hint: str
    classes: str
    order: str


@dataclass(frozen=True)
class Cell:
    """A value as the template writes it: its text, the key that it is sorted by, the length of its bar."""

    text: str
    value: str
    classes: str
    share: str


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows."""

    caption: str
    headers: Sequence[Header]
    rows: Sequence[Sequence[Cell]]

    @classmethod
    def of(cls, caption: str, columns: Sequence[Column]) -> Table:
        """Return the table of these columns, which have equally many values."""
        return cls(
            caption,
            [_header(column) for column in columns],
            list(zip(*(_cells(column) for column in columns), strict=True)),
        )


def accuracy_column(title: str, values: pd.Series, order: Order = None) -> Column:
    """Return a column of shares in percent."""
    return Column(title, values, percent, best="highest", bar=True, order=order)


def _header(column: Column) -> Header:
    return Header(column.title, column.hint, "number" if _is_numeric(column) else "", column.order or "none")


def _cells(column: Column) -> Iterator[Cell]:
    keys = [_key(value) for value in column.values]
    known = [key for key in keys if isinstance(key, float)]
    best = _best(column, known)
    for key, value in zip(keys, column.values, strict=True):
        text = MISSING if key is None else column.show(value)
        classes = ["number"] if _is_numeric(column) else ["long"] if len(text) > LONG_TEXT else []
        number, share = "", ""
        if isinstance(key, float):
            number = repr(key)
            classes += ["best"] if key == best else []
            if column.bar:
                share = f"{_share(key, known):.0%}"
                classes.append("bar")
        yield Cell(text, number, " ".join(classes), share)


def _best(column: Column, known: Sequence[float]) -> float | None:
    choose = {"highest": max, "lowest": min}.get(column.best or "")
    return choose(known) if choose and known else None


def _is_numeric(column: Column) -> bool:
    return all(not isinstance(_key(value), str) for value in column.values)


def _key(value: Any) -> float | str | None:
    """Return the sort key of a value; None if it is missing."""
    if isinstance(value, tuple):
        return _key(value[0])
    if isinstance(value, Real) and not isinstance(value, bool):
        return None if math.isnan(value) else float(value)
    return value if value is None else str(value)


def _share(value: float, among: Sequence[float]) -> float:
    """Return the length of a bar: full for the highest value, and still visible for the lowest."""
    low, high = min(among), max(among)
    return 1.0 if low == high else 0.1 + 0.9 * (value - low) / (high - low)
