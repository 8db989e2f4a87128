"""How far runs are, on the screen: bars on a terminal, a line now and then elsewhere."""

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

from flower_kd import results
from flower_kd.config import RunConfig
from flower_kd.protocol import ALONE

LINE_SECONDS = 10.0
LINE_SHARE = 0.1
# Rounds may take minutes: time left is reckoned from the whole run so far.
SPEED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Moment:
    """How far a run is.

    Parameters
    ----------
    done, rounds : int
        Rounds that are done, and all of them; those of the nodes alone count too.
    accuracy : float or None
        Mean over nodes in [0, 1] when they were last evaluated.
    """

    done: int
    rounds: int
    accuracy: float | None = None

    @property
    def share(self) -> float:
        """What is done of the run, in [0, 1]."""
        return self.done / self.rounds

    @property
    def accuracy_text(self) -> str:
        """The accuracy, if there is one yet."""
        return "" if self.accuracy is None else f"accuracy {self.accuracy:.3f}"


class RoundCounter:
    """A listener of one run that tells how far it is.

    Parameters
    ----------
    config : RunConfig
        That of the run.
    tell : callable
        Called with a Moment after each exchange.
    """

    def __init__(self, config: RunConfig, tell: Callable[[Moment], None]) -> None:
        self._rounds = config.num_server_rounds
        self._stages = 1 + results.has_baseline(config)
        self._stage = 0
        self._accuracy: float | None = None
        self._tell = tell

    def begin(self, stage: str) -> None:
        """Note which stage it is: the nodes alone come first."""
        self._stage = 0 if stage == ALONE else self._stages - 1
        self._accuracy = None

    def heard(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Count the rounds, of which the evaluation is the last part."""
        if kind == "evaluate" and metrics:
            self._accuracy = float(np.mean([values["accuracy"] for values in metrics.values()]))
        in_stage = server_round if kind == "evaluate" else server_round - 1
        self._tell(Moment(self._stage * self._rounds + in_stage, self._stages * self._rounds, self._accuracy))


class Display(Protocol):
    """Shows runs that go on, by name."""

    def begin(self, run: str) -> None:
        """Show that a run begins."""

    def moved(self, run: str, moment: Moment) -> None:
        """Show how far a run is."""

    def said(self, run: str, line: str) -> None:
        """Show a warning of a run."""

    def end(self, run: str) -> None:
        """Show that a run has ended, well or not."""


def display(runs: int = 1, kept: int = 0, console: Console | None = None) -> AbstractContextManager[Display]:
    """Return the display for a number of runs, of which some are kept from before, to be used in a `with`."""
    console = console or Console()
    kind = Bars if console.is_terminal else Lines
    return kind(runs, kept, console)


class Bars:
    """A bar for all runs, if there are several, and one for each that goes on."""

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
        self._shares = Shares(runs, kept)
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

    def moved(self, run: str, moment: Moment) -> None:
        """Move a bar."""
        self._shares.moved(run, moment)
        count = f"round {moment.done} of {moment.rounds}"
        self._progress.update(self._tasks[run], completed=moment.share, count=count, accuracy=moment.accuracy_text)
        self._show_all()

    def said(self, run: str, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(f"{run}: {line}", markup=False, highlight=False)

    def end(self, run: str) -> None:
        """Remove a bar."""
        self._shares.end(run)
        self._progress.remove_task(self._tasks.pop(run))
        self._show_all()

    def _show_all(self) -> None:
        if self._all is not None:
            shares = self._shares
            self._progress.update(self._all, completed=shares.sum, count=f"{shares.ended} of {shares.runs} runs")


class Lines:
    """A line now and then, where nobody sees a bar move."""

    def __init__(self, runs: int, kept: int, console: Console) -> None:
        self._console = console
        self._shares = Shares(runs, kept)
        self._begun = self._printed = time.monotonic()
        self._first = self._shown = self._shares.sum / runs

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        """Need not end anything."""

    def begin(self, run: str) -> None:
        """Print nothing."""

    def moved(self, run: str, moment: Moment) -> None:
        """Print how far a run is, if the last line is long ago."""
        self._shares.moved(run, moment)
        words = f"{run}: round {moment.done} of {moment.rounds}"
        self._now_and_then(f"{words}, {moment.accuracy_text}" if moment.accuracy_text else words)

    def said(self, run: str, line: str) -> None:
        """Print a line."""
        self._print(f"{run}: {line}")

    def end(self, run: str) -> None:
        """Print how far all runs are, if the last line is long ago."""
        self._shares.end(run)
        if self._shares.runs > 1:
            self._now_and_then(f"{run} ended")

    def _now_and_then(self, line: str) -> None:
        now, share = time.monotonic(), self._shares.sum / self._shares.runs
        if now - self._printed < LINE_SECONDS or share - self._shown < LINE_SHARE:
            return
        left = timedelta(seconds=round((now - self._begun) * (1 - share) / (share - self._first)))
        runs = f"{self._shares.ended} of {self._shares.runs} runs, " if self._shares.runs > 1 else ""
        self._print(f"{runs}{line}, {left} left")
        self._printed, self._shown = now, share

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Shares:
    """What is done of all runs: those that ended, and parts of those that go on."""

    def __init__(self, runs: int, kept: int) -> None:
        self.runs = runs
        self.ended = kept
        self._going: dict[str, float] = {}

    @property
    def sum(self) -> float:
        """Runs that are done, with fractions."""
        return self.ended + sum(self._going.values())

    def moved(self, run: str, moment: Moment) -> None:
        """Note how far a run is."""
        self._going[run] = moment.share

    def end(self, run: str) -> None:
        """Note that a run ended."""
        self._going.pop(run, None)
        self.ended += 1
