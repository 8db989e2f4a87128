"""Many runs, one after another or several at a time; finished runs are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flower_kd import folders, unused
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.folders import Marker
from flower_kd.runs import results, run_folder
from flower_kd.sim.signals import deferred_signals
from flower_kd.study import processes as worker_processes
from flower_kd.study import progress, seeds
from flower_kd.study.job import Job, Outcome, attempt, problem, state
from flower_kd.study.logs import warnings_to
from flower_kd.study.progress import Display

# These apply to the whole batch, so they are options of the command and not keys of a run.
NOT_IN_CONFIG = {"output-dir": "--output-dir", "overwrite": "--overwrite", "resume": "--resume"}


class Batch:
    """Jobs and their folder, whose results are up to date while they run; a subclass writes them.

    Parameters
    ----------
    kind : {"comparison", "sweep"}
        What the results are.
    jobs : sequence of Job
        What to run.
    folder : Path
        Results folder.
    """

    def __init__(self, kind: str, jobs: Sequence[Job], folder: Path) -> None:
        self.kind = kind
        self.jobs = jobs
        self.folder = folder
        self._outcomes: dict[Path, Outcome] = {}

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes so far, in the order of the jobs."""
        return [self._outcomes[job.folder] for job in self.jobs if job.folder in self._outcomes]

    @property
    def failed(self) -> list[Outcome]:
        """The outcomes of runs that failed."""
        return [outcome for outcome in self.outcomes if outcome.summary is None]

    def run(
        self,
        *,
        processes: int = 1,
        workers: int = 1,
        tensorboard: bool = False,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        """Run what is not finished yet; see `run_all` and `claimed`.

        Raises
        ------
        InputError
            If the folder contains other results, or cannot be written to.
        """
        with claimed(self.folder, self.jobs, self.kind, overwrite=overwrite, resume=resume):
            self._write()
            try:
                run_all(
                    self.jobs, processes=processes, workers=workers, tensorboard=tensorboard, on_outcome=self._record
                )
            finally:
                with deferred_signals():
                    self._write()

    def _record(self, outcome: Outcome) -> None:
        self._outcomes[outcome.job.folder] = outcome
        self._update()

    def _write(self) -> None:
        """Write all results; called before the first run and after the last one."""
        raise NotImplementedError

    def _update(self) -> None:
        """Write what is due after a run."""
        raise NotImplementedError


def jobs(runs: Mapping[str, Mapping[str, Any]], seed_text: str, num_nodes: int, folder: Path) -> list[Job]:
    """Return one job per run and seed.

    Parameters
    ----------
    runs : mapping
        Run configs by label; without a `baseline` key, no baseline is trained.
    seed_text : str
        See `seeds.parse`.
    num_nodes : int
        Number of nodes.
    folder : Path
        The folder of the batch.

    Raises
    ------
    InputError
        If the seeds are invalid, or a config has a key that only the command line may set.
    """
    jobs = []
    for label, config in runs.items():
        for key, option in NOT_IN_CONFIG.items():
            if key in config:
                raise InputError(f"{key} = {config[key]!r} cannot be set in a run of a batch: use {option}")
        if config.get("num-nodes", 0) not in (0, num_nodes):
            raise InputError(f"num-nodes = {config['num-nodes']!r} and --num-nodes {num_nodes} are different")
        first = config.get("seed", RunConfig.seed)
        if type(first) is not int:
            raise InputError(f"seed = {first!r} must be a whole number")
        for seed in seeds.parse(seed_text, first):
            name = folders.file_name_of(f"{label}-seed{seed}")
            of_batch = {"baseline": "none", **config, "seed": seed, "resume": True}
            jobs.append(Job(label, of_batch, num_nodes, folder / folders.RUNS / name))

    return jobs


def problems(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """Return the reasons why jobs cannot run, each with the labels of those jobs."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        words = problem(job)
        if words and job.label not in found.setdefault(words, []):
            found[words].append(job.label)
    return found


@contextmanager
def claimed(folder: Path, jobs: Sequence[Job], kind: str, *, overwrite: bool, resume: bool) -> Iterator[None]:
    """Claim a folder for a batch, and keep other processes from writing to it until the end of the block.

    Parameters
    ----------
    folder : Path
        The folder of the batch.
    jobs : sequence of Job
        The jobs of the batch.
    kind : {"comparison", "sweep"}
        What kind of batch it is.
    overwrite : bool
        Whether to replace earlier results.
    resume : bool
        Whether other runs in the folder may stay or, where a job needs their place, be replaced.

    Raises
    ------
    InputError
        If the folder cannot be written to, contains other results or files that flower-kd did not write, or is in use
        by another process. Nothing is changed in that case.
    """
    folders.check_writable(folder)
    names = [job.folder.name for job in jobs]
    folders.check_foreign_files(folder, kind, names)
    for job in jobs:
        run_folder.check_outside_data(folder, str(job.config.get("dataset", RunConfig.dataset)))
    with folders.locked(folder):
        marker = folders.read_marker(folder)
        if marker is not None and not overwrite:
            _keep_runs(folder, jobs, marker, kind, resume=resume)
            names = [*marker.runs, *names]
        content = {folders.MARKER: Marker(kind, runs=tuple(dict.fromkeys(names))).to_bytes()}
        folders.write(folder, content, replace_results=overwrite)
        yield


def _keep_runs(folder: Path, jobs: Sequence[Job], marker: Marker, kind: str, *, resume: bool) -> None:
    """Refuse a folder with runs of another batch; with `resume`, remove only those in a place that a job needs."""
    if marker.kind != kind:
        raise folders.refusal(folder, f"a {marker.kind}")
    by_folder = {job.folder: job for job in jobs}
    runs = [path for path in (folder / folders.RUNS / name for name in marker.runs) if folders.read_marker(path)]
    others = [run for run in runs if run not in by_folder or state(by_folder[run]) == "other"]
    if others and not resume:
        raise folders.refusal(folder, f"other runs, such as {others[0].name!r}")
    replaced = [run for run in others if run in by_folder]
    if replaced:
        folders.remove_index(folder)  # it lists them
    for run in replaced:
        folders.clear(run)


def run_all(
    jobs: Sequence[Job],
    *,
    processes: int = 1,
    workers: int = 1,
    tensorboard: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run the jobs that are not finished yet, and show their progress.

    Ctrl-C and SIGTERM stop all of them: finished runs are kept, and interrupted ones keep their history.

    Parameters
    ----------
    jobs : sequence of Job
        What to run, each in a folder of its own.
    processes : int
        How many jobs run at the same time; with 1, in this process.
    workers : int
        Number of processes over which the nodes of one run are spread.
    tensorboard : bool
        Whether each run writes scalars for TensorBoard.
    on_outcome : callable
        Called in this process with each Outcome when its job ends; Ctrl-C waits until it returns.

    Returns
    -------
    list of Outcome
        In the order of the jobs.
    """
    outcomes: dict[Path, Outcome] = {}

    def record(outcome: Outcome) -> None:
        with deferred_signals():
            outcomes[outcome.job.folder] = outcome
            on_outcome(outcome)

    def record_if_finished(job: Job) -> bool:
        done = state(job) == "finished"
        if done:
            record(Outcome(job, results.read(job.folder).summary))
        return done

    todo = [job for job in jobs if not record_if_finished(job)]
    if not todo:
        return [outcomes[job.folder] for job in jobs]
    options: dict[str, Any] = {"workers": workers, "tensorboard": tensorboard}
    with progress.display(len(jobs), len(jobs) - len(todo)) as display:
        try:
            if processes > 1:
                worker_processes.run(todo, processes, **options, display=display, on_outcome=record)
            else:
                _one_by_one(todo, **options, display=display, on_outcome=record)
        except KeyboardInterrupt:
            for job in todo:
                if job.folder not in outcomes:
                    record_if_finished(job)  # it may have ended without having reported it yet
            raise
    return [outcomes[job.folder] for job in jobs]


def _one_by_one(
    jobs: Sequence[Job], *, workers: int, tensorboard: bool, display: Display, on_outcome: Callable[[Outcome], None]
) -> None:
    for job in jobs:
        display.begin(job.name)
        with warnings_to(partial(display.warn, job.name), known=(unused.WARNING,)):
            outcome = attempt(job, partial(display.update, job.name), workers=workers, tensorboard=tensorboard)
        display.end(job.name)
        on_outcome(outcome)
