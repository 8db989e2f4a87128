"""Building blocks of a report's HTML page: all text escaped, no external resources."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any, Literal

MISSING = "-"
LONG_TEXT = 40
Order = Literal["ascending", "descending"] | None

# The policy blocks external resources, whatever text a user's label contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --raised: #f5f6f8; --text: #1c2127; --soft: #5b6570;
  --line: #dde1e6; --bar: #cfe3f5; --accent: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --raised: #1d232a; --text: #e4e8ec; --soft: #a0abb6;
  --line: #343c45; --bar: #1f4263; --accent: #7db8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 72rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
p { margin: .5rem 0; }
.note, header p, footer { color: var(--soft); font-size: .9rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0 0; }
.figures div { background: var(--raised); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.figures dt, .figures dd.remark { color: var(--soft); font-size: .85rem; }
.figures dd { margin: 0; }
.figures dd.value { font-size: 1.6rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.scroll { overflow: auto; max-height: 80vh; margin: .75rem 0; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .9rem; overflow-wrap: normal; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: .35rem .55rem; text-align: left; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--raised); padding: 0; vertical-align: bottom; }
tbody th { font-weight: 400; min-width: 7rem; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.long { min-width: 16rem; overflow-wrap: anywhere; }
.best { font-weight: 700; }
.bar { background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share)) no-repeat
  0 50% / 100% 72%; }
th button { all: unset; box-sizing: border-box; display: block; width: 100%; padding: .4rem .55rem; cursor: pointer;
  font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
th button::after { content: "\\2195"; margin-left: .3em; color: var(--soft); opacity: .45; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
img { display: block; max-width: 100%; height: auto; margin: .75rem auto; background: #ffffff; border-radius: .5rem; }
ul.keys { columns: 16rem; padding: 0; margin: .75rem 0; list-style: none; font-size: .85rem; }
ul.keys li { break-inside: avoid; padding: .1rem 0; }
code { font-family: ui-monospace, monospace; font-size: .95em; }
@media print { body { padding: 0; max-width: none; font-size: .85rem; } .scroll { max-height: none; overflow: visible; }
  thead th { position: static; } th button::after { content: none; } tr, img, .figures div { break-inside: avoid; }
  .bar { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

_SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), body = header.closest("table").tBodies[0];
    const column = header.cellIndex, numeric = header.classList.contains("number");
    const first = numeric ? "descending" : "ascending", second = numeric ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    const key = row => numeric ? parseFloat(row.cells[column].dataset.value) : row.cells[column].textContent;
    const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, {numeric: true});
    const rows = [...body.rows].filter(row => !Number.isNaN(key(row)));
    const missing = [...body.rows].filter(row => Number.isNaN(key(row)));
    rows.sort((a, b) => compare(key(a), key(b)) * (order === "ascending" ? 1 : -1));
    body.append(...rows, ...missing);
    for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order);
  });
}
"""


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
    """

    title: str
    values: Sequence[Any]
    show: Callable[[Any], str] = str
    best: Literal["highest", "lowest"] | None = None
    bar: bool = False
    order: Order = None


def page(title: str, lead: str, body: Iterable[str]) -> str:
    """Return a whole page; `title` and `lead` are plain text, `body` consists of this module's building blocks."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="flower-kd">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>
<main>
{"".join(body)}
</main>
<footer>Written by flower-kd report. Click a column's header to sort by it.</footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """Return a section with a heading."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>\n"


def note(text: str) -> str:
    """Return a remark, or nothing if it is empty."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def figures(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return headline figures, each of a name, a value and a remark."""
    cells = (
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="remark">{escape(remark)}</dd></div>'
        for name, value, remark in entries
    )
    return f'<dl class="figures">{"".join(cells)}</dl>\n'


def picture(png: bytes, alt: str) -> str:
    """Return a PNG picture, embedded in the page."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escape(alt)}">'


def key_list(values: Mapping[str, str]) -> str:
    """Return keys and values as a list in columns."""
    entries = (f"<li><code>{escape(key)} = {escape(value)}</code></li>" for key, value in values.items())
    return f'<ul class="keys">{"".join(entries)}</ul>'


def table(caption: str, columns: Sequence[Column]) -> str:
    """Return a table that can be sorted by its headers; its first column names the rows."""
    head = "".join(_header(column) for column in columns)
    rows = zip(*(_cells(column, names_rows=column is columns[0]) for column in columns), strict=True)
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    label = escape(caption)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table><caption>{label}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _header(column: Column) -> str:
    numeric = ' class="number"' if _is_numeric(column) else ""
    order = column.order or "none"
    return f'<th scope="col"{numeric} aria-sort="{order}"><button type="button">{escape(column.title)}</button></th>'


def _cells(column: Column, *, names_rows: bool) -> Iterator[str]:
    tag, scope = ("th", ' scope="row"') if names_rows else ("td", "")
    keys = [_key(value) for value in column.values]
    known = [key for key in keys if isinstance(key, float)]
    best = _best(column, known)
    for key, value in zip(keys, column.values, strict=True):
        text = MISSING if key is None else column.show(value)
        classes, attributes = ["number"] if _is_numeric(column) else ["long"] if len(text) > LONG_TEXT else [], scope
        if isinstance(key, float):
            attributes += f' data-value="{key!r}"'
            classes += ["best"] if key == best else []
            if column.bar:
                attributes += f' style="--share: {_share(key, known):.0%}"'
                classes.append("bar")
        attributes += f' class="{" ".join(classes)}"' if classes else ""
        yield f"<{tag}{attributes}>{escape(text)}</{tag}>"


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
