"""Scalars of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flower_kd.errors import InputError
from flower_kd.protocol import ALONE

FOLDER = "tensorboard"


def summary_writer() -> Callable[[str], Any]:
    """Return torch's SummaryWriter; raises InputError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            '--tensorboard needs a package that is not here: pip install "flower-kd[tensorboard]"'
        ) from None
    return SummaryWriter


class TensorBoard:
    """A listener that writes the mean and each node's accuracy and losses by round, to be closed at the end of a run.

    Parameters
    ----------
    folder : Path
        The results folder; the scalars go to `tensorboard` in it, those of the nodes alone to `tensorboard/alone`.
    make_writer : callable (str) -> SummaryWriter
        Makes the writer of a folder.
    """

    def __init__(self, folder: Path, make_writer: Callable[[str], Any]) -> None:
        self._folder = folder / FOLDER
        self._make_writer = make_writer
        self._writer: Any = None
        self._round = 0
        self._last: dict[int, dict[str, float]] = {}

    def on_stage(self, stage: str) -> None:
        """Go on to another stage: the nodes alone, or the strategy."""
        self.close()
        self._place = self._folder / ALONE if stage == ALONE else self._folder

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Keep a round's metrics, the last exchange's of those that come several times, until it is over."""
        if server_round != self._round:
            self._write()
            self._round = server_round
        prefix = "test-" if kind == "evaluate" else ""
        for vertex, values in metrics.items():
            named = {f"{prefix}{name}": value for name, value in values.items() if name != "num-examples"}
            self._last.setdefault(vertex, {}).update(named)

    def close(self) -> None:
        """Write what is left and close the files."""
        self._write()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._round = None, 0

    def _write(self) -> None:
        if not self._last:
            return
        # Made no earlier, so that a run that is refused leaves no file.
        self._writer = self._writer or self._make_writer(str(self._place))
        by_name: dict[str, list[float]] = {}
        for vertex, values in sorted(self._last.items()):
            for name, value in values.items():
                self._writer.add_scalar(f"{name}/node-{vertex}", value, self._round)
                by_name.setdefault(name, []).append(value)
        for name, over_nodes in by_name.items():
            self._writer.add_scalar(f"{name}/mean", float(np.mean(over_nodes)), self._round)
        self._last = {}
