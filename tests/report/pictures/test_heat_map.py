import itertools

import numpy as np
import pandas as pd
import pytest

from flower_kd.errors import InputError
from flower_kd.report import pictures
from flower_kd.report.pictures.style import ink_on

pytestmark = pytest.mark.filterwarnings("error")


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


def of_size(rows: int, columns: int, panels: int = 1, prefix: str = "") -> pd.DataFrame:
    choices = itertools.product(range(columns), range(rows), range(panels))
    return pd.DataFrame([{"x": f"{prefix}{x}", "y": y, "z": z, "accuracy": (x + y) / 40} for x, y, z in choices])


def test_heat_maps_hold_means_over_seeds_in_the_order_of_the_table() -> None:
    figure = pictures.heat_maps(swept(), ["temperature", "dissimilarity", "clamp"])
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["kl", "js", "td"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["10", "1"]
    assert [panel.get_title() for panel in figure.axes[:2]] == ["clamp = true", "clamp = false"]
    assert len(axes.texts) == 5
    assert axes.texts[0].get_text() == f"{0.05 / 20:.3f}"
    assert sum(bool(patch.get_hatch()) for patch in axes.patches) == 1  # the cell whose runs failed
    assert figure.get_suptitle() == "mean over nodes and 2 seeds"


def test_one_seed_is_no_mean_over_seeds() -> None:
    table = swept()
    figure = pictures.heat_maps(table[table["seed"] == 0], ["dissimilarity", "temperature", "clamp"])
    assert figure.get_suptitle() == "mean over nodes, one seed"


def test_one_key_is_one_row() -> None:
    figure = pictures.heat_maps(swept(), ["dissimilarity"])
    assert len(figure.axes[0].texts) == 3
    assert list(figure.axes[0].get_yticks()) == []


@pytest.mark.parametrize(
    ("rows", "columns", "panels", "prefix"),
    [
        (2, 3, 1, ""),
        (4, 5, 1, "erdos-renyi(edge_probability=0.3"),
        (12, 20, 1, ""),
        (3, 30, 1, ""),
        (20, 12, 2, ""),
        (2, 2, 6, "n"),
    ],
)
def test_numbers_fit_their_cells_and_nothing_overlaps(rows: int, columns: int, panels: int, prefix: str) -> None:
    keys = ["x", "y", "z"] if panels > 1 else ["x", "y"]
    figure = pictures.heat_maps(of_size(rows, columns, panels, prefix), keys)
    pictures.files(figure, "sweep", [".svg"])
    for axes in figure.axes[:panels]:
        cells = axes.transData.transform([(0, 0), (1, 1)])
        width, height = np.abs(cells[1] - cells[0])
        for text in axes.texts:
            extent = text.get_window_extent()
            assert extent.width < width
            assert extent.height < height
        names = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert not any(above.overlaps(below) for above, below in itertools.pairwise(names))
        if not prefix.startswith("erdos"):  # whose slanted names have overlapping boxes
            names = [label.get_window_extent() for label in axes.get_xticklabels()]
            assert not any(left.overlaps(right) for left, right in itertools.pairwise(names))
    tight = figure.get_tightbbox()
    assert tight.x0 >= -0.01
    assert tight.y0 >= -0.01
    assert tight.x1 <= figure.get_size_inches()[0] + 0.01


def test_the_size_of_a_picture_follows_its_cells() -> None:
    small, large = (pictures.heat_maps(of_size(*size), ["x", "y"]).get_size_inches() for size in ((2, 3), (12, 20)))
    assert small[0] < 3.4
    assert small[1] < 2
    assert 6.5 < large[0] <= 7.5


def test_numbers_have_the_ink_of_the_higher_contrast() -> None:
    assert ink_on((1, 1, 0, 1)) == ink_on((0.5, 0.5, 0.5, 1)) == "black"
    assert ink_on((0.27, 0.0, 0.33, 1)) == "white"


def test_values_grow_lighter_in_gray() -> None:
    import matplotlib

    from flower_kd.report.pictures.style import COLOR_MAP

    colors = matplotlib.colormaps[COLOR_MAP](np.linspace(0, 1, 64))[:, :3]
    assert (np.diff(colors @ (0.2126, 0.7152, 0.0722)) > 0).all()


@pytest.mark.parametrize(("rows", "keys"), [(24, []), (0, ["clamp"])])
def test_nothing_to_draw_is_one_sentence(rows: int, keys: list[str]) -> None:
    with pytest.raises(InputError, match="needs at least one"):
        pictures.heat_maps(swept().head(rows), keys)
