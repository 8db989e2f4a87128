"""Commands on the trained models of a run: `flower-kd predict` and `flower-kd export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flower_kd.cli.terminal import console
from flower_kd.errors import InputError

Run = Annotated[Path, typer.Argument(help="Results folder of a finished run.", show_default=False)]
Node = Annotated[str, typer.Option(help="Whose model: a vertex, or a name if the graph has names.")]

Best = Annotated[
    bool, typer.Option("--best", help="The model that was best on the node's validation samples, not the final one.")
]


def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)],
    node: Node,
    top: Annotated[int, typer.Option(min=1, help="How many labels to print for each image.")] = 3,
    best: Best = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict the labels of images with a node's model."""
    from flower_kd.deploy import prediction
    from flower_kd.deploy.loading import load_card, load_model

    model, card = load_model(run, node, best=best), load_card(run, node)
    files = prediction.image_files(images)
    likely = prediction.predict(model, card, files).topk(min(top, card.classes))
    found = [
        (str(file), [(card.labels[label], share) for label, share in zip(labels, shares, strict=True)])
        for file, labels, shares in zip(files, likely.indices.tolist(), likely.values.tolist(), strict=True)
    ]
    if as_json:
        keys = ("label", "probability")
        entries = [
            {"image": file, "labels": [dict(zip(keys, pair, strict=True)) for pair in ranked]} for file, ranked in found
        ]
        typer.echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    table = Table("image", *(f"{place}." for place in range(1, min(top, card.classes) + 1)))
    for file, ranked in found:
        table.add_row(*(escape(text) for text in (file, *(f"{label}  {share:.1%}" for label, share in ranked))))
    console().print(table)


def export(
    run: Run,
    node: Node,
    format_name: Annotated[str, typer.Option("--format", help="onnx, torchscript or pt2 (torch.export).")],
    best: Best = False,
    output: Annotated[
        Path | None,
        typer.Option(help="The file (default: node-NODE or node-NODE-best with the format's suffix, here)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a node's model to a file that needs neither flower-kd nor the model's own code.

    It takes images in [0, 1] and contains the normalization; before it is kept, it is read back and compared with the
    model's own outputs.
    """
    from flower_kd import folders
    from flower_kd.deploy import export as exports
    from flower_kd.deploy.loading import load_card, load_model

    exports.check_format(format_name)
    default = folders.file_name_of(f"node-{node}{'-best' if best else ''}") + exports.FORMATS[format_name].suffix
    path = folders.expanded(output or default).absolute()
    if path.is_dir():
        raise InputError(f"--output {str(path)!r} is a directory, but must be a file")
    if path.exists() and not overwrite:
        raise InputError(f"--output {str(path)!r} already exists: choose another file, or replace it with --overwrite")
    folders.check_writable(path.parent, "the folder of --output")
    model, card = load_model(run, node, best=best), load_card(run, node)
    content = exports.export(model, card, format_name)
    folders.write(path.parent, {path.name: content})
    lines = [f"exported: {path}", *(f"{key}: {value}" for key, value in exports.about(card).items())]
    lines.append(f"checked: its logits are those of the module (within {exports.LARGEST_DIFFERENCE:g})")
    console().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
