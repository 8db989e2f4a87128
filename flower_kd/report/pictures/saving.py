"""Pictures as files: one drawing as PNG for a page, PDF for a paper and SVG for an editor."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from flower_kd import folders
from flower_kd.report.pictures.style import styled

DPI = 300
# Nothing in a file may depend on when it was made or by which version: equal figures are equal files.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None},
}


@styled
def files(figure: Figure, stem: str, suffixes: Sequence[str] = folders.PICTURE_SUFFIXES) -> dict[str, bytes]:
    """Return a figure as files by name, one per format; the same figure gives the same bytes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # an empty box is good enough
        _lay_out(figure)
        return {f"{stem}{suffix}": _file(figure, suffix) for suffix in suffixes}


def _lay_out(figure: Figure) -> None:
    """Place the parts of a figure once for all its files, which takes longer than drawing them."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _file(figure: Figure, suffix: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=suffix.removeprefix("."), dpi=DPI, metadata=_METADATA[suffix])
    return content.getvalue()
