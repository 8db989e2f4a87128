"""Scalars of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flower_kd.errors import InputError
from flower_kd.protocol import ALONE
from flower_kd.strategies.node_records import named

FOLDER = "tensorboard"


def summary_writer() -> Callable[[str], Any]:
    """Return torch's SummaryWriter; raises InputError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            '--tensorboard needs a package that is not installed: pip install "flower-kd[tensorboard]"'
        ) from None
    return SummaryWriter


class TensorBoard:
    """A listener that writes accuracy and losses by round, per node and as means; close it at the end of a run.

    Parameters
    ----------
    folder : Path
        The results folder; the scalars go to `tensorboard` in it, those of the silo baseline to `tensorboard/alone`.
    make_writer : callable (str) -> SummaryWriter
        Creates the writer for a folder.
    """

    def __init__(self, folder: Path, make_writer: Callable[[str], Any]) -> None:
        self._folder = folder / FOLDER
        self._make_writer = make_writer
        self._writer: Any = None
        self._round = 0
        self._last: dict[int, dict[str, float]] = {}

    def on_stage(self, stage: str) -> None:
        """Switch to another stage: the silo baseline, or the strategy."""
        self.close()
        self._stage_folder = self._folder / ALONE if stage == ALONE else self._folder

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Collect a round's metrics until its end; of repeated ones, the last exchange counts."""
        if server_round != self._round:
            self._write()
            self._round = server_round
        for vertex, values in metrics.items():
            shown = {name: value for name, value in values.items() if name != "num-examples"}
            self._last.setdefault(vertex, {}).update(named(shown, evaluation=kind == "evaluate"))

    def close(self) -> None:
        """Write the remaining metrics and close the files."""
        self._write()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._round = None, 0

    def _write(self) -> None:
        if not self._last:
            return
        # Created late, so that a refused run leaves no file.
        self._writer = self._writer or self._make_writer(str(self._stage_folder))
        by_name: dict[str, list[float]] = {}
        for vertex, values in sorted(self._last.items()):
            for name, value in values.items():
                self._writer.add_scalar(f"{name}/node-{vertex}", value, self._round)
                by_name.setdefault(name, []).append(value)
        for name, over_nodes in by_name.items():
            self._writer.add_scalar(f"{name}/mean", float(np.mean(over_nodes)), self._round)
        self._last = {}
