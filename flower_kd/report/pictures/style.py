"""How pictures look: sizes for a paper's columns, fonts, and lines that differ in gray as well as in color."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

P = ParamSpec("P")
T = TypeVar("T")

# Inches: one column of a two-column paper, and both.
COLUMN_WIDTH, PAGE_WIDTH = 3.4, 7.0

# Okabe and Ito's colors, which color-blind readers can tell apart, with gray for their yellow, too pale for a line.
# The numbers of colors, markers and dashes have no common divisor, so that no two of the first 504 labels look alike,
# and markers and dashes alone, as in a gray print, tell 63 labels apart.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vPX<>"
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)),
)  # fmt: skip

# Its lightness grows with the value, so that it can be read in gray.
COLOR_MAP = "viridis"
UNKNOWN_COLOR = "lightgray"

SETTINGS = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.title_fontsize": 7.0,
    "legend.handlelength": 3.0,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    # Names of runs and folders may contain a $, which is not a formula.
    "text.parse_math": False,
    # Fonts as TrueType and as text, which a publisher's checks and an editor's search want.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Ids in an SVG file are hashes; without this they would be random.
    "svg.hashsalt": "flower-kd",
}


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Return a function that draws with these settings, whatever matplotlib's own are."""

    @wraps(draw)
    def with_settings(*args: P.args, **options: P.kwargs) -> T:
        with rc_context(SETTINGS):  # type: ignore[arg-type]
            return draw(*args, **options)

    return with_settings


def line_style(number: int) -> dict[str, object]:
    """Return color, marker and dashes of a picture's nth label, as options of `Axes.plot`."""
    return {
        "color": _COLORS[number % len(_COLORS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number % len(_DASHES)],
    }


def line_styles(labels: Iterable[str]) -> dict[str, dict[str, object]]:
    """Return the style of each label."""
    return {label: line_style(number) for number, label in enumerate(labels)}


def color_scale(values: Iterable[float]) -> ScalarMappable:
    """Return a color scale over the known values, not empty even if they are all equal or there are none."""
    known = [value for value in values if not math.isnan(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return ScalarMappable(Normalize(low - 0.01, high + 0.01) if low == high else Normalize(low, high), COLOR_MAP)


def color_of(scale: ScalarMappable, value: float) -> tuple[float, float, float, float]:
    """Return the color of a value."""
    red, green, blue, opacity = scale.to_rgba(np.array([value]))[0]
    return red, green, blue, opacity


def ink_on(color: Sequence[float] | np.ndarray) -> str:
    """Return black or white, whichever has the higher contrast on a color (relative luminance, WCAG 2.2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def panel_grid(panels: int, most_columns: int) -> tuple[int, int]:
    """Return rows and columns for a number of panels."""
    rows = math.ceil(panels / most_columns)
    return rows, math.ceil(panels / rows)
