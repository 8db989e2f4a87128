"""One self-contained HTML page of a run, a comparison or a sweep: `flower-kd report`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flower_kd import folders
from flower_kd.errors import InputError
from flower_kd.report.pages.comparison_page import comparison
from flower_kd.report.pages.page import Page
from flower_kd.report.pages.run_page import finished_run, unfinished_run
from flower_kd.report.pages.sweep_page import sweep

REPORT_FILE = folders.REPORT

# Which page a folder gets, by the first of these files that it has.
_PAGES: dict[str, Callable[[Path], Page]] = {
    "comparison.json": comparison, "sweep.json": sweep, "sweep.csv": sweep, "summary.json": finished_run,
}  # fmt: skip


def write(folder: Path) -> Path:
    """Write report.html into a results folder and return its path.

    Parameters
    ----------
    folder : Path
        The folder of a run, a comparison or a sweep. Of a run that did not finish, the page shows the rounds so far.

    Raises
    ------
    InputError
        If the folder contains none of these, or is damaged, or cannot be written to.
    """
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder")
    if (folder / REPORT_FILE).exists() and not folders.is_report(folder):
        raise InputError(f"{str(folder / REPORT_FILE)!r} was not written by flower-kd: move that file")
    html = _page(folder).html()
    # A file name may contain bytes that are not valid text.
    folders.write(folder, {REPORT_FILE: html.encode(errors="xmlcharrefreplace")})
    return folder / REPORT_FILE


def _page(folder: Path) -> Page:
    for name, page in _PAGES.items():
        if (folder / name).exists():
            return page(folder)
    marker = folders.read_marker(folder)
    if marker is not None and marker.kind == "run":
        return unfinished_run(folder)
    raise InputError(
        f"{str(folder)!r} contains nothing to report: no summary.json (finished run), comparison.json (comparison) "
        "or sweep.json (sweep)"
    )
