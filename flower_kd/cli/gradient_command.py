"""The command on gradients of dissimilarities: `flower-kd gradients`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flower_kd.cli.terminal import console


def gradients(
    dissimilarities: Annotated[str, typer.Option(help="Comma-separated, also module:attribute (default: all).")] = "",
    temperatures: Annotated[str, typer.Option(help="Comma-separated (default: 1,2,10,100).")] = "",
    classes: Annotated[str, typer.Option(help="Numbers of classes, comma-separated (default: 10,100,1000).")] = "",
    output_dir: Annotated[Path, typer.Option(help="Where the tables and the picture go.")] = Path("results/gradients"),
) -> None:
    """Show where the gradients of dissimilarities vanish or explode, by temperature, classes and confidence."""
    from flower_kd import folders
    from flower_kd.report import gradient_tables
    from flower_kd.study import gradients as study

    asked = study.parse(dissimilarities, temperatures, classes)
    folder = folders.expanded(output_dir).absolute()
    folders.check_writable(folder)
    rows = study.measure(*asked)
    files = study.write(folder, rows)
    screen = console()
    screen.print(gradient_tables.by_temperature(study.by_temperature(rows), study.TITLE))
    screen.print(
        gradient_tables.by_confidence(study.by_confidence(rows), study.TITLE_BY_CONFIDENCE.format(min(asked[1])))
    )
    for name in files:
        screen.print(f"written: {folder / name}", markup=False, highlight=False, soft_wrap=True)
