"""Progress of runs: bars on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flower_kd.config import RunConfig
from flower_kd.protocol import ALONE
from flower_kd.runs import results

LINE_SECONDS = 10.0
LINE_FRACTION = 0.1
# Rounds may take minutes: the time left is estimated from the whole run so far.
SPEED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class ProgressEvent:
    """Progress of a run.

    Parameters
    ----------
    done, rounds : int
        Finished rounds, and all rounds; those of the silo baseline are included.
    accuracy : float or None
        Mean over nodes at the last evaluation, in [0, 1]; None before the first.
    """

    done: int
    rounds: int
    accuracy: float | None = None

    @property
    def fraction(self) -> float:
        """Finished fraction of the run, in [0, 1]."""
        return self.done / self.rounds

    @property
    def accuracy_text(self) -> str:
        """The accuracy as text; empty before the first evaluation."""
        return "" if self.accuracy is None else f"accuracy {self.accuracy:.3f}"


class RoundCounter:
    """A listener that turns the exchanges of one run into progress events.

    Parameters
    ----------
    config : RunConfig
        The config of the run.
    on_progress : callable
        Called with a ProgressEvent after each exchange.
    """

    def __init__(self, config: RunConfig, on_progress: Callable[[ProgressEvent], None]) -> None:
        self._rounds = config.num_server_rounds
        self._stages = 1 + results.has_baseline(config)
        self._stage = 0
        self._accuracy: float | None = None
        self._on_progress = on_progress

    def on_stage(self, stage: str) -> None:
        """Note the stage: the silo baseline comes first."""
        self._stage = 0 if stage == ALONE else self._stages - 1
        self._accuracy = None

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Count the rounds, each of which ends with its evaluation."""
        if kind == "evaluate" and metrics:
            self._accuracy = float(np.mean([values["accuracy"] for values in metrics.values()]))
        in_stage = server_round if kind == "evaluate" else server_round - 1
        self._on_progress(
            ProgressEvent(self._stage * self._rounds + in_stage, self._stages * self._rounds, self._accuracy)
        )


class Display(Protocol):
    """Shows the runs in progress, by name."""

    def begin(self, run: str) -> None:
        """Show that a run has started."""

    def update(self, run: str, event: ProgressEvent) -> None:
        """Show the progress of a run."""

    def warn(self, run: str, line: str) -> None:
        """Show a warning of a run."""

    def end(self, run: str) -> None:
        """Show that a run has ended, successfully or not."""


def display(runs: int = 1, kept: int = 0, console: Console | None = None) -> AbstractContextManager[Display]:
    """Return the display for a number of runs, some of them finished earlier, to be used in a `with` statement."""
    console = console or Console()
    kind = Bars if console.is_terminal else Lines
    return kind(runs, kept, console)


class Bars:
    """A bar for all runs, if there are several, and one for each run in progress."""

    def __init__(self, runs: int, kept: int, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[accuracy]}"),
            console=console,
            refresh_per_second=4,
            speed_estimate_period=SPEED_SECONDS,
        )
        self._batch = BatchProgress(runs, kept)
        self._tasks: dict[str, TaskID] = {}
        self._all = None
        if runs > 1:
            self._all = self._progress.add_task("all runs", total=runs, completed=kept, count="", accuracy="")
            self._show_all()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, run: str) -> None:
        """Add a bar."""
        self._tasks[run] = self._progress.add_task(run, total=1.0, count="", accuracy="")

    def update(self, run: str, event: ProgressEvent) -> None:
        """Update a bar."""
        self._batch.update(run, event)
        count = f"round {event.done} of {event.rounds}"
        self._progress.update(self._tasks[run], completed=event.fraction, count=count, accuracy=event.accuracy_text)
        self._show_all()

    def warn(self, run: str, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(f"{run}: {line}", markup=False, highlight=False)

    def end(self, run: str) -> None:
        """Remove a bar."""
        self._batch.end(run)
        self._progress.remove_task(self._tasks.pop(run))
        self._show_all()

    def _show_all(self) -> None:
        if self._all is not None:
            batch = self._batch
            self._progress.update(self._all, completed=batch.sum, count=f"{batch.ended} of {batch.runs} runs")


class Lines:
    """Occasional lines, for output that is not a terminal."""

    def __init__(self, runs: int, kept: int, console: Console) -> None:
        self._console = console
        self._batch = BatchProgress(runs, kept)
        self._started = self._printed = time.monotonic()
        self._first = self._shown = self._batch.sum / runs

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is nothing to stop."""

    def begin(self, run: str) -> None:
        """Do nothing."""

    def update(self, run: str, event: ProgressEvent) -> None:
        """Print the progress of a run, if the last line was some time ago."""
        self._batch.update(run, event)
        words = f"{run}: round {event.done} of {event.rounds}"
        self._print_occasionally(f"{words}, {event.accuracy_text}" if event.accuracy_text else words)

    def warn(self, run: str, line: str) -> None:
        """Print a line."""
        self._print(f"{run}: {line}")

    def end(self, run: str) -> None:
        """Print the progress of all runs, if the last line was some time ago."""
        self._batch.end(run)
        if self._batch.runs > 1:
            self._print_occasionally(f"{run} ended")

    def _print_occasionally(self, line: str) -> None:
        now, share = time.monotonic(), self._batch.sum / self._batch.runs
        if now - self._printed < LINE_SECONDS or share - self._shown < LINE_FRACTION:
            return
        left = timedelta(seconds=round((now - self._started) * (1 - share) / (share - self._first)))
        runs = f"{self._batch.ended} of {self._batch.runs} runs, " if self._batch.runs > 1 else ""
        self._print(f"{runs}{line}, {left} left")
        self._printed, self._shown = now, share

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class BatchProgress:
    """Progress of all runs: those that ended, and fractions of those in progress."""

    def __init__(self, runs: int, kept: int) -> None:
        self.runs = runs
        self.ended = kept
        self._fractions: dict[str, float] = {}

    @property
    def sum(self) -> float:
        """Finished runs, including fractions of those in progress."""
        return self.ended + sum(self._fractions.values())

    def update(self, run: str, event: ProgressEvent) -> None:
        """Record the progress of a run."""
        self._fractions[run] = event.fraction

    def end(self, run: str) -> None:
        """Record that a run ended."""
        self._fractions.pop(run, None)
        self.ended += 1
