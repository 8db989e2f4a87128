"""Table I of Wang, Wang and Ma 2020: what two peers send each other under D-Dist and under D-SGD, by network."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

import pandas as pd
import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from flower_kd import models, wire
from flower_kd.protocol import ARRAYS, LOGITS
from flower_kd.report.formats import short
from flower_kd.report.paper_tables import PaperTable
from flower_kd.seeding import torch_seeded

CLASSES, IMAGE = 10, (3, 32, 32)  # CIFAR-10
NUM_EXAMPLES = 100  # typical: its size in a message is that of its bits
FLOAT = 4  # bytes
BATCH = 128  # images predicted at a time
MEGABYTE = 2**20  # the report's: with it, its figures are whole numbers of exchanges, as the notes say

EPOCHS, BATCHES, ROWS = 800, 37, 1
MODELS = "lenet5,resnet8,resnet14,resnet14(prune=0.2),resnet14(prune=0.4),resnet14(prune=0.6),resnet14(prune=0.8)"

D_DIST, D_SGD = 1.129, {"lenet5": 4989.71, "resnet8": 9994.34, "resnet14": 20920.90}  # megabytes, in 800 epochs
RATIOS = {"lenet5": 4419, "resnet14": 18528}  # D-SGD over D-Dist, in its text
DECIMALS_OF_D_DIST, DECIMALS_OF_D_SGD = 3, 2


@dataclass(frozen=True)
class Exchanges:
    """How often two peers exchange, and how much under D-Dist.

    Parameters
    ----------
    epochs, batches : int
        Passes over the private data, and exchanges in each: one per batch.
    rows : int
        Rows of the reference set in one exchange.
    """

    epochs: int = EPOCHS
    batches: int = BATCHES
    rows: int = ROWS

    @property
    def number(self) -> int:
        """How many exchanges there are."""
        return self.epochs * self.batches

    def megabytes(self, per_exchange: float) -> float:
        """Return bytes per exchange as megabytes (2^20 bytes) in all of them."""
        return per_exchange * self.number / MEGABYTE


def rows(spec: str, exchanges: Exchanges) -> pd.DataFrame:
    """Return one row per model of a list such as `MODELS`; nothing is trained.

    Columns: `model`; `parameters`, and how many of them are `kept`; `weights`, the kept ones of convolutions and linear
    layers, without biases and normalization. Bytes of one message in one direction, as Flower serializes it:
    `d-dist-message`, `d-sgd-message`, `labels-message`; by the size of its tensors, as the report counts:
    `d-dist-tensors`, `d-sgd-tensors`, `labels-tensors`. In all exchanges, in megabytes (2^20 bytes): the same with
    `-mb`. `ratio-messages` and `ratio-tensors`, D-SGD over D-Dist. `file`, bytes of a file with the weights.

    Raises
    ------
    InputError
        If a model cannot be built.
    """
    names = dict.fromkeys(name for name, _ in models.parse(spec))
    return pd.DataFrame([_row(name, exchanges) for name in names])


def _row(name: str, exchanges: Exchanges) -> dict[str, object]:
    model = models.build(name, CLASSES, IMAGE)
    state = model.state_dict()
    model.eval()
    with torch_seeded(0), torch.inference_mode():
        sizes = [min(BATCH, exchanges.rows - start) for start in range(0, exchanges.rows, BATCH)]
        logits = torch.cat([model(torch.rand(size, *IMAGE)) for size in sizes])
    pruned, weights = models.pruning.num_pruned(model), num_weights(model)
    bytes_of = {
        "d-dist-message": _message(LOGITS, wire.get("float32").encode(logits)),
        "d-dist-tensors": FLOAT * exchanges.rows * CLASSES,
        "d-sgd-message": _message(ARRAYS, wire.encode_weights(models.pruning.packed(state))),
        "d-sgd-tensors": FLOAT * (weights - pruned),
        "labels-message": _message(LOGITS, wire.get("labels").encode(logits)),
        "labels-tensors": ceil(exchanges.rows * log2(CLASSES) / 8),
    }
    return {
        "model": name,
        "parameters": models.num_parameters(model),
        "kept": models.num_parameters(model) - pruned,
        "weights": weights - pruned,
        **bytes_of,
        **{f"{kind}-mb": exchanges.megabytes(count) for kind, count in bytes_of.items()},
        "ratio-messages": bytes_of["d-sgd-message"] / bytes_of["d-dist-message"],
        "ratio-tensors": bytes_of["d-sgd-tensors"] / bytes_of["d-dist-tensors"],
        "file": models.pruning.file_bytes(state),
    }


def num_weights(model: nn.Module) -> int:
    """Return how many weights, pruned ones included, the convolutions and linear layers of a model have."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)


def _message(name: str, record: object) -> int:
    return wire.reply_bytes(name, record, NUM_EXAMPLES)  # type: ignore[arg-type]


def implied(exchanges: Exchanges) -> pd.DataFrame:
    """Return what each figure of the report implies.

    Columns: `figure`, with its unit; `implies`, for this number of exchanges; `ours`; `rows`, the reference rows in one
    exchange that the figure implies: of D-Dist, for this number of exchanges; of D-SGD and of ratios, whatever the
    number, if networks have as many weights as ours.
    """
    ours = {name: models.build(name, CLASSES, IMAGE) for name in D_SGD}
    counts = {name: num_weights(model) for name, model in ours.items()}
    rows_in_all = D_DIST * MEGABYTE / FLOAT / CLASSES
    found = [
        {
            "figure": f"D-Dist: {D_DIST} MB",
            "implies": f"{rows_in_all:,.0f} rows of {CLASSES} float32",
            "ours": f"{exchanges.rows * exchanges.number:,} rows",
            "rows": rows_in_all / exchanges.number,
        }
    ]
    for name, megabytes in D_SGD.items():
        values = megabytes * MEGABYTE / FLOAT
        found.append(
            {
                "figure": f"D-SGD, {name}: {megabytes:.{DECIMALS_OF_D_SGD}f} MB",
                "implies": f"{values / exchanges.number:,.0f} float32 weights",
                "ours": f"{counts[name]:,} weights, {models.num_parameters(ours[name]):,} parameters",
                "rows": rows_in_all / (values / counts[name]),
            }
        )
    for name, ratio in RATIOS.items():
        found.append(
            {
                "figure": f"D-SGD over D-Dist, {name}: {ratio:,}",
                "implies": f"{ratio * CLASSES:,} weights to a row of {CLASSES}",
                "ours": f"{counts[name] / CLASSES / exchanges.rows:,.0f}",
                "rows": counts[name] / CLASSES / ratio,
            }
        )
    return pd.DataFrame(found)


def notes(exchanges: Exchanges) -> list[str]:
    """Return what must be said of the tables, in sentences."""
    return [
        f"MB: 2^20 bytes, in one direction, in {exchanges.number:,} exchanges: {exchanges.epochs} epochs (--epochs) of "
        f"{exchanges.batches} batches (--batches) with one exchange each, D-Dist with {exchanges.rows} reference "
        f"row{'' if exchanges.rows == 1 else 's'} (--rows) of {CLASSES} classes",
        "The report does not state batches and rows; its ratios are a tenth of 44,190 and 185,280 weights, so that it "
        "counts one row of 10 values an exchange, and its megabytes are then 29,600 exchanges, 37 an epoch",
        "44,190 are the weights of LeNet-5 on gray images of 28 x 28, without padding and biases; ours has 61,770 on "
        "CIFAR-10. Its ResNets have 13,712 weights more than ours, outside of the residual blocks, "
        "which the report does not explain",
        "Rows an exchange: of D-SGD and of ratios, if networks had as many weights as ours",
        "Tensors: 4 bytes for each weight of convolutions and linear layers, without biases and normalization, as the "
        "report counts",
        "Labels: this project's rows in the format labels, each sent in full; with wire-coding = 'delta' only changes "
        "are sent, which depends on the run",
    ]


def screen(found: pd.DataFrame, exchanges: Exchanges) -> RenderableType:
    """Return the tables for the terminal."""
    shown = []
    for table in paper_tables(found, exchanges).values():
        drawn = Table(title=Text(table.caption, style="table.title"), title_justify="left")
        for number, title in enumerate(table.header):
            drawn.add_column(title, justify="left" if number < table.names else "right", overflow="fold")
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        shown.append(drawn)
    return Group(*shown, *(Text(f"{note}.") for note in notes(exchanges)))


def paper_tables(found: pd.DataFrame, exchanges: Exchanges) -> dict[str, PaperTable]:
    """Return the tables by the stem of their files: as serialized, by tensors, and what the report's figures imply."""
    header = ["network", "parameters kept", "D-Dist, B", "D-SGD, B", "D-Dist, MB", "D-SGD, MB", "ratio", "labels, MB"]
    whole = {"messages": ("message", "kept"), "tensors": ("tensors", "weights")}
    captions = {
        "messages": "Between two peers, as Flower serializes messages",
        "tensors": "Between two peers, by the size of tensors, as the report counts",
    }
    tables = {}
    for kind, (size, counted) in whole.items():
        texts = [
            [
                row["model"],
                f"{row[counted]:,}",
                f"{row[f'd-dist-{size}']:,}",
                f"{row[f'd-sgd-{size}']:,}",
                _megabytes(row[f"d-dist-{size}-mb"], DECIMALS_OF_D_DIST),
                _megabytes(row[f"d-sgd-{size}-mb"], DECIMALS_OF_D_SGD),
                short(row[f"ratio-{kind}"]),
                _megabytes(row[f"labels-{size}-mb"], DECIMALS_OF_D_DIST),
                *([f"{row['file']:,}"] if kind == "messages" else []),
            ]
            for _, row in found.iterrows()
        ]
        titles = [*header, "file, B"] if kind == "messages" else [header[0], "weights kept", *header[2:]]
        tables[f"table1-{kind}"] = PaperTable(captions[kind], titles, texts)
    facts = implied(exchanges)
    tables["table1-implied"] = PaperTable(
        f"What the report's figures imply with {exchanges.number:,} exchanges",
        ["figure", "implies", "ours", "rows an exchange"],
        [[row["figure"], row["implies"], row["ours"], f"{row['rows']:.2f}"] for _, row in facts.iterrows()],
        names=3,
    )
    return tables


def files(found: pd.DataFrame, exchanges: Exchanges) -> dict[str, bytes]:
    """Return all files by name: table1.csv, and each table in LaTeX and Markdown, with the notes in its caption."""
    content = {"table1.csv": found.to_csv(index=False, lineterminator="\n").encode()}
    for stem, table in paper_tables(found, exchanges).items():
        caption = ". ".join([table.caption, *notes(exchanges)]) + "."
        content |= PaperTable(caption, table.header, table.rows, table.names).files(stem)
    return content


def _megabytes(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"
