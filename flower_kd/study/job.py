"""One run of a batch: its config, whether it is finished already, and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_kd import folders, server_app
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.runs import run_folder
from flower_kd.runs.identity import identity
from flower_kd.runs.results import Summary
from flower_kd.runs.run_folder import State
from flower_kd.sim import engine
from flower_kd.sim.grids import Listener
from flower_kd.study.progress import ProgressEvent, RoundCounter
from flower_kd.study.tensorboard import TensorBoard, summary_writer


@dataclass(frozen=True)
class Job:
    """A run to be executed.

    Parameters
    ----------
    label : str
        The name of its config; runs that differ only in the seed share it.
    config : dict
        Its run config, by kebab-case keys.
    num_nodes : int
        Number of nodes.
    folder : Path
        Its results folder.
    """

    label: str
    config: dict[str, Any]
    num_nodes: int
    folder: Path

    @property
    def name(self) -> str:
        """Its name in the terminal, as the user wrote it; the folder's is escaped."""
        return f"{self.label}-seed{self.seed}"

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a summary, or with an error in one sentence."""

    job: Job
    summary: Summary | None
    error: str = ""


@dataclass(frozen=True)
class Listeners:
    """Several listeners as one."""

    all: Sequence[Listener]

    def on_stage(self, stage: str) -> None:
        """Pass it on."""
        for listener in self.all:
            listener.on_stage(stage)

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Pass it on."""
        for listener in self.all:
            listener.on_exchange(server_round, kind, metrics)


def problem(job: Job) -> str:
    """Return why a job cannot run, as far as this can be known without its data; empty if it can."""
    try:
        server_app.plan(RunConfig.parse(job.config), job.num_nodes)
    except InputError as error:
        return str(error)
    return ""


def state(job: Job) -> State:
    """Return whether the job's folder contains nothing, the job's run (finished or not), or something else."""
    if folders.read_marker(job.folder) is None:
        return "none"  # without reading the data
    try:
        return run_folder.state(job.folder, identity(RunConfig.parse(job.config), job.num_nodes))
    except InputError:
        return "other"


def execute(job: Job, on_progress: Callable[[ProgressEvent], None], *, workers: int, tensorboard: bool) -> Summary:
    """Run a job in this process.

    Parameters
    ----------
    job : Job
        What to run.
    on_progress : callable
        Called with a ProgressEvent after each exchange.
    workers : int
        Processes over which its nodes are spread.
    tensorboard : bool
        Whether to write scalars for TensorBoard.

    Raises
    ------
    InputError
        If the config, the data or the graph is invalid.
    """
    config = RunConfig.parse(job.config)
    listeners: list[Listener] = [RoundCounter(config, on_progress)]
    with ExitStack() as stack:
        if tensorboard:
            listeners.append(stack.enter_context(closing(TensorBoard(job.folder, summary_writer()))))
        return engine.run(job.config, job.num_nodes, job.folder, workers=workers, listener=Listeners(listeners))


def attempt(job: Job, on_progress: Callable[[ProgressEvent], None], *, workers: int, tensorboard: bool) -> Outcome:
    """Run a job in this process and return how it ended: a failing job must not stop the others."""
    try:
        return Outcome(job, execute(job, on_progress, workers=workers, tensorboard=tensorboard))
    except InputError as error:
        return Outcome(job, None, " ".join(str(error).split()))
    except Exception as error:
        return Outcome(job, None, f"{type(error).__name__}: {' '.join(str(error).split())}")
